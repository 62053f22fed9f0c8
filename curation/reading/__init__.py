"""Reading: any source file becomes batches of pairs, and of rows that could not be read."""

from curation.reading.errors import SourceFileError
from curation.reading.formats import source_files
from curation.reading.layout import FormatGuess, Layout, explain, inspect, plan_layout
from curation.reading.reader import ReadBatch, read_layout, read_pairs
from curation.reading.settings import SourceSettings

__all__ = [
    "FormatGuess",
    "Layout",
    "ReadBatch",
    "SourceFileError",
    "SourceSettings",
    "explain",
    "inspect",
    "plan_layout",
    "read_layout",
    "read_pairs",
    "source_files",
]
