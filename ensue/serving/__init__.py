"""The HTTP service: live histories, models that are swapped while it runs, and a page."""
