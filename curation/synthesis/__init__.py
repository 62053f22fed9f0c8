"""Synthesis: a language model writes pairs about passages that the catalog holds."""
