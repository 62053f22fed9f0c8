"""An ingest that ends as kill -9 ends it. Imported by the process that others are forked from.

Importing it also loads the compiled kernels, which takes longer than the ingest of a test.
"""

import os
import signal
import sys
from pathlib import Path

from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from curation.ingest import find_sources, ingest_files
from curation.texts import from_strings, normalize, text_keys

ROOT = Path(__file__).parent.parent
# Where things are planned, written and committed; functions that run once a row are left out.
WATCHED = tuple(
    str(ROOT / name)
    for name in ("catalog", "curation/ingest", "curation/fresh_files", "curation/reading/reader")
)

text_keys(normalize(from_strings(["warm"])))


def ingest_until(url, folder, last_call, calls):
    """Ingest in this process and kill it at a call of Lode's own code; count the calls."""

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(WATCHED):
            calls.value += 1
            if calls.value == last_call:
                os.kill(os.getpid(), signal.SIGKILL)

    sources = find_sources([folder])
    sys.setprofile(watch)
    ingest_files(Catalog.open(url), sources, executor=ExecutorSettings(workers=1))
    sys.setprofile(None)
