"""What a log holds before any model is trained: counts, sequential intensity, dependence."""
