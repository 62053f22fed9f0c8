"""Curation: what we keep. Reading, signals, duplicates."""
