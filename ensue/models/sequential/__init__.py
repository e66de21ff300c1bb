"""Models that read the history in order."""
