"""The run directory: train, save, load, recommend, evaluate, report."""
