"""Indexes: the best items for a query, without scoring a whole catalogue where that is too slow."""
