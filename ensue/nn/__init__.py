"""Blocks with no opinion about the task."""
