"""Logs to datasets: reading, ids, filters, splits, histories, negatives, synthetic data."""
