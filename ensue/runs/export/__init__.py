"""Runs as files that other programs compute with: graphs, and arrays."""
