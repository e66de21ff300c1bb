"""Repeated measurements of the same entities: tables, images and volumes, windows of histories."""
