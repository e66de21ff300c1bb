"""Models that match a vector of a request with a vector of each item."""
