"""The process that extracts: a page comes in, its pairs go out, and a page may kill it.

    python -m curation.extraction.worker < requests > answers

Both are runs of pickled messages. Processor time and memory are limited by the kernel, so that
nothing a page does inside a C library outlasts them: where time is up the process ends by SIGPROF.
"""

import pickle
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

from curation.extraction.pairs import extract_page
from curation.extraction.settings import PageSettings

# The exit status that says that a page was too large for page_memory_mib.
OUT_OF_MEMORY = 9


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the other side closes."""
    document: Mapping[str, Any] = pickle.load(requests)
    settings = PageSettings.from_document(document)
    limit = settings.page_memory_mib << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        try:
            format_name, data, charset = pickle.load(requests)
        except EOFError:
            return
        except MemoryError:
            sys.exit(OUT_OF_MEMORY)  # part of the message is unread: nothing can follow it
        # ITIMER_PROF counts processor time of this process; its signal is not handled: it kills.
        signal.setitimer(signal.ITIMER_PROF, settings.page_cpu_s)
        found = extract_page(format_name, data, charset, settings)
        signal.setitimer(signal.ITIMER_PROF, 0)
        pickle.dump(found, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
