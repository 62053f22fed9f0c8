"""Fine-tuning in three lines: from a data set to a model, as ``lode train`` does it.

    from trainer import fine_tune
    rows = [{"query": "天空为什么是蓝色的", "positive": "因为空气散射蓝光", "negatives": ["…"]}, …]
    model = fine_tune("moka-ai/m3e-small", rows, "runs/x", batch=32, epochs=1)

The same call again goes on where it was stopped.
"""

import filecmp
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from catalog.errors import CatalogError
from catalog.lake import Catalog
from catalog.records import sync_file, writing
from catalog.snapshots import Snapshot, snapshot_reader
from trainer.own_data import catalog_of
from trainer.run import RunPlace, train
from trainer.settings import TrainSettings, load_settings

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
RECIPE: Final = "m3e"
ROWS_FILE: Final = "data.jsonl"
TEMPERATURE: Final = 0.05  # uniem's
MAX_NEGATIVES: Final = 7  # of a query in an update, as in the recipe conan-v1
_JSON: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def fine_tune(
    model: str | Path,
    data: str | Path | Iterable[Row] | Sequence[str | Path],
    out: str | Path,
    *,
    batch: int = 32,
    epochs: float = 1.0,
    lr: float = 2e-5,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Fine-tune a model on data and return the folder of the newest checkpoint.

    ``data`` is a file or folder, several of them, or rows such as a list of dicts or a
    ``datasets.Dataset``, in any form that ``lode ingest`` reads. Pairs are learned by InfoNCE with
    in-batch and given negatives, pairs with a label by CoSENT, ``batch`` of each in every update.
    ``settings`` are those of ``lode train --set``, such as ``{"retrieval.temperature": 0.02}``.
    """
    out = Path(out)
    catalog, snapshot = catalog_of(_files(data, out), out)
    given = {"epochs": float(epochs), "optimizer.lr": float(lr), **(settings or {})}
    chosen = choose_settings(str(model), catalog, snapshot, batch, given)
    return train(RunPlace(out, catalog, snapshot), chosen, log.info)


def choose_settings(
    model: str, catalog: Catalog, snapshot: Snapshot, batch: int, given: Mapping[str, Any]
) -> TrainSettings:
    """Choose the tasks that the data has, and given negatives where there are any."""
    sizes, num_negatives = _measure(catalog, snapshot)
    changes: dict[str, Any] = {}
    for task in ("retrieval", "classification", "sts"):
        changes[task] = {"batch": batch} if task in sizes else None
        if task in sizes and task != "sts":
            changes[task] |= {"temperature": TEMPERATURE, "hard_negatives": num_negatives > 0}
    if num_negatives:
        changes["negatives.num_negatives"] = min(num_negatives, MAX_NEGATIVES)
    return load_settings(RECIPE, model, {**changes, **given})


def write_rows(rows: Iterable[Any], out: Path) -> Path:
    """Write rows into a file of the run's folder; raise where it holds others."""
    path = out / ROWS_FILE
    aside = out / f".{ROWS_FILE}.{os.getpid()}.tmp"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            _write_lines(rows, aside)
            if path.exists() and not filecmp.cmp(path, aside, shallow=False):
                raise CatalogError(
                    f"the run in {out} has other data; give the rows that it began with, or "
                    "choose another folder"
                )
            aside.rename(path)
        finally:
            aside.unlink(missing_ok=True)
    return path


def _write_lines(rows: Iterable[Any], path: Path) -> None:
    with path.open("wb") as stream:
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise CatalogError(
                    f"row {number} of the data is {type(row).__name__}, not a dict such as "
                    '{"query": …, "positive": …}; of a DatasetDict give one split'
                )
            stream.write(orjson.dumps(dict(row), option=_JSON) + b"\n")
    sync_file(path)


def _files(data: str | Path | Iterable[Any], out: Path) -> list[Path]:
    """List the files of the data, written for it where it is rows."""
    if isinstance(data, str | Path):
        return [Path(data)]
    if isinstance(data, list | tuple) and data and all(isinstance(f, str | Path) for f in data):
        return [Path(file) for file in data]
    return [write_rows(data, out)]


def _measure(catalog: Catalog, snapshot: Snapshot) -> tuple[dict[str, int], int]:
    """Return the pairs of each task, and the most negatives that a pair gives."""
    with snapshot_reader(catalog, snapshot) as connection:
        rows = connection.execute(
            "select task, count(*), coalesce(max(len(negatives)), 0) from pairs "
            "where query is not null group by task order by task"
        ).fetchall()
    return {task: n for task, n, _ in rows}, max(most for _, _, most in rows)
