"""How long do ingest, curate, snapshot and report take on the whole corpus of real pairs?

    python -m benchmarks.whole_corpus [FOLDER]     # writes benchmarks/whole_corpus.md

Memory is the sum of the resident sets of all processes of a step, sampled every 0.2 s.
"""

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.machine import DATA, describe

MAPPING = ["--map", "query=text1", "--map", "positive=text2", "--map", "source=source"]


def tree_memory_gib(root: int) -> float:
    """Sum the proportional set sizes of a process and all that it started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 2**20


def run(command: list[str]) -> tuple[float, float]:
    """Run a command to its end; return wall seconds and peak memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    peak = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, tree_memory_gib(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return time.perf_counter() - start, peak


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "corpus"
    shutil.rmtree(folder, ignore_errors=True)
    lode = [sys.executable, "-m", "lode"]
    at = ["--catalog", str(folder)]
    steps = {
        "init": [*lode, "init", str(folder)],
        "ingest": [*lode, "ingest", str(DATA / "pairs" / "*.parquet"), *MAPPING, *at],
        "curate": [*lode, "curate", "conan-v1", *at],
        "snapshot": [*lode, "snapshot", "create", "v1", *at],
        "report": [*lode, "report", "v1", "-o", str(folder / "funnel.html"), *at],
    }
    lines = ["| step | seconds | peak GiB |", "|---|---|---|"]
    total, highest = 0.0, 0.0
    for name, command in steps.items():
        wall_s, peak = run(command)
        total, highest = total + wall_s, max(highest, peak)
        lines.append(f"| {name} | {wall_s:.1f} | {peak:.2f} |")
    lines.append(f"| all | {total:.1f} | {highest:.2f} |")
    text = "\n".join(
        [
            "# The whole corpus of real pairs: ingest, curate, snapshot, report",
            "",
            "`python -m benchmarks.whole_corpus`; target: below 240 s on 2 cores, below 4 GiB.",
            "",
            describe(["duckdb", "pyarrow", "numba", "datatrove"]),
            "",
            *lines,
            "",
        ]
    )
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
