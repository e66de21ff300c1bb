"""Public data sets: where they come from, their licence, how they are fetched."""
