"""Models every study should report beside its own."""
