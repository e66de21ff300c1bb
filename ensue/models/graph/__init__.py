"""Models that read graphs between users, items and other entities."""
