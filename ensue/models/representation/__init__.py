"""Models that turn measurements into vectors without labels."""
