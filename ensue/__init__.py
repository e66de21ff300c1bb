"""Ensue: from a log file to recommendations that can be trusted."""

__version__ = "0.1.0"
