"""Extraction in a process of its own: a page that hangs or crashes it costs only itself."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from types import TracebackType
from typing import Final

from curation.extraction.pages import Page
from curation.extraction.pairs import Extraction
from curation.extraction.settings import PageSettings
from curation.extraction.worker import OUT_OF_MEMORY

WORKER: Final = "curation.extraction.worker"


class Sandbox:
    """Extracts pages one by one; the process behind it is started again after one that killed it.

    A program of its own and not a fork: it inherits neither locks nor threads nor open files, and
    ends with its standard input when the job is killed.
    """

    def __init__(self, settings: PageSettings) -> None:
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def extract(self, page: Page) -> Extraction:
        """Return a page's pairs, or the reason why it has none."""
        if page.reason:
            return Extraction(reason=page.reason)
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        request = (page.format, page.data, page.charset)
        try:
            pickle.dump(request, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            found = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            return Extraction(reason=self._autopsy())
        assert isinstance(found, Extraction)
        return found

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([entry or os.getcwd() for entry in sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdin is not None
        pickle.dump(self.settings.as_document(), self._process.stdin)
        return self._process

    def _autopsy(self) -> str:
        """Say what ended the process; the next page gets a new one."""
        process = self._process
        assert process is not None
        status = process.wait()
        self._close()
        if status == -signal.SIGPROF:
            return "extraction took more processor time than page_cpu_s"
        if status < 0:
            return f"extraction crashed ({signal.Signals(-status).name})"
        if status == OUT_OF_MEMORY:
            return "took more memory than page_memory_mib"
        if status:
            raise RuntimeError(
                f"the extraction process does not start (status {status}); "
                f"run it by hand to see why: {sys.executable} -m {WORKER} < /dev/null"
            )
        return "extraction ended without an answer"

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was not sent has no reader
                        pipe.close()
            process.wait()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
