"""Optimizers: a class that walks parameters, a function that does the arithmetic."""
