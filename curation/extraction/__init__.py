"""Extraction: a web page or Markdown document becomes pairs of texts. No catalog in here."""
