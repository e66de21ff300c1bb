"""Models that retrieve candidates from large catalogues."""
