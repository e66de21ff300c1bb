"""Training a student on what a teacher answers."""
