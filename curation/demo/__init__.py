"""A corpus of our own with planted defects: what curation finds in it can be counted."""

from curation.demo.corpus import DEFAULT_ROWS, DEFAULT_SEED, DemoCorpus, generate

__all__ = ["DEFAULT_ROWS", "DEFAULT_SEED", "DemoCorpus", "generate"]
