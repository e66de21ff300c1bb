"""Serve: runs behind HTTP, with histories that hold what a user did a second ago."""
