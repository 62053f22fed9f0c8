"""How many pairs does a core-second read, key and write into the catalog?

    python -m benchmarks.ingest         # writes benchmarks/ingest.md

Lode's whole ingest (hash, read, validate, keys, meta, Parquet, commit) with one worker in this
process, beside datatrove's reader and writer of the same Parquet files, which checks and keys
nothing.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import DATA, describe

FILES = ("laws", "alpaca_zh", "msgraph_zh", "classical_modern", "lifehacker_zh")
MAPS = ("query=text1", "positive=text2", "source=source")
ROUNDS = 3


def lode(folder: Path) -> int:
    from catalog.executors import ExecutorSettings
    from catalog.lake import Catalog
    from curation.ingest import find_sources, ingest_files

    catalog = Catalog.create(str(folder / "corpus"))
    sources = find_sources([DATA / "pairs" / f"{name}.parquet" for name in FILES], MAPS)
    return ingest_files(catalog, sources, executor=ExecutorSettings(1)).rows


def datatrove(folder: Path) -> int:
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    source = folder / "source"
    source.mkdir()
    for name in FILES:
        shutil.copy(DATA / "pairs" / f"{name}.parquet", source)
    rows = 0
    documents = ParquetReader(str(source), text_key="text2", id_key="id")(rank=0, world_size=1)
    # Its writer fails where a column is null in one file and text in another: those stay out.
    writer = ParquetWriter(str(folder / "out"), adapter=without_nulls)
    for _ in writer(documents, rank=0, world_size=1):
        rows += 1
    return rows


def without_nulls(writer: object, document: Any) -> dict[str, str]:
    return {"id": document.id, "query": document.metadata["text1"], "positive": document.text}


def cpu_seconds(work: Callable[[Path], int]) -> tuple[float, int]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        rows = work(Path(folder))
        return time.process_time() - start, rows


def main() -> None:
    lines = [
        "| | pairs | min CPU s | median | max | pairs per core-second |",
        "|---|---|---|---|---|---|",
    ]
    rates = []
    for name, work in (("Lode: ingest", lode), ("datatrove: read and write", datatrove)):
        cpu_seconds(work)  # warm: imports, compiled kernels
        measured = sorted(cpu_seconds(work) for _ in range(ROUNDS))
        rows = measured[0][1]
        seconds = [one for one, _ in measured]
        rates.append(rows / statistics.median(seconds))
        lines.append(
            f"| {name} | {rows:,} | {seconds[0]:.1f} | {statistics.median(seconds):.1f} | "
            f"{seconds[-1]:.1f} | {rates[-1]:,.0f} |"
        )
        print(lines[-1], file=sys.stderr)
    text = "\n".join(
        [
            "# Ingest",
            "",
            "`python -m benchmarks.ingest`; target: 60,000 pairs per core-second.",
            "",
            describe(["duckdb", "pyarrow", "datatrove"]),
            "",
            *lines,
            "",
            f"Lode reads {rates[0] / rates[1]:.1f} times the pairs, and keys and checks them.",
            "",
        ]
    )
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
