"""The trainer: what we learn."""
