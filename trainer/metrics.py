"""Metrics of a run: a line of JSON for whoever follows it, and rows of the table ``metrics``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa

from catalog.lake import Catalog
from catalog.records import writing
from catalog.schema import METRICS
from trainer.run_log import RunLog

FILE: Final = "metrics.jsonl"


class MetricLog:
    """The metrics of a run; one process writes it."""

    def __init__(self, folder: Path, run: str, catalog: Catalog) -> None:
        self.path, self.run = folder / FILE, run
        self.rows = RunLog(folder / "log", run, catalog, "metrics")

    def begin(self, step: int) -> None:
        """Start, or go on, after a checkpoint of this step; lines of later steps are dropped."""
        self.rows.begin(step)
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        aside = self.path.with_name(f".{FILE}.tmp")
        with writing(self.path.parent):
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            aside.rename(self.path)

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Note what was measured when ``step`` steps were done."""
        with writing(self.path.parent), self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        self.rows.append(
            pa.record_batch(
                [
                    pa.repeat(self.run, len(values)),
                    pa.repeat(pa.scalar(step, pa.int64()), len(values)),
                    pa.array(list(values), pa.string()),
                    pa.array(list(values.values()), pa.float64()),
                ],
                schema=METRICS,
            )
        )

    def sync(self) -> None:
        """Wait until the rows are on the disk."""
        self.rows.sync()

    def commit(self, step: int) -> None:
        """Put the rows up to a checkpoint's step into the lake."""
        self.rows.commit(step)

    def close(self) -> None:
        """Close the files."""
        self.rows.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the lines of a run; the last one may be cut where its process was killed."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
