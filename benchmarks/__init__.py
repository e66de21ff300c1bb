"""Timing scripts and their dated reports."""
