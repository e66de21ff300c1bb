"""Data of ranking models: rows of features with one label or several, in the order of time."""
