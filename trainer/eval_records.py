"""Evaluation results as rows of the table ``evaluations``."""

import hashlib
import json
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from catalog.contamination import SetContamination
from catalog.jobs import open_job
from catalog.lake import Catalog
from catalog.schema import EVALUATIONS
from trainer.evaluation import Result, find_contamination

TABLE: Final = "evaluations"
TRAINED_ON: Final = "texts_trained_on"


def make_rows(
    results: Sequence[Result],
    run: str | None = None,
    held: Sequence[SetContamination] | None = None,
) -> pa.Table:
    """Make a row for every metric of every result; ``run`` is the training run of the model.

    ``held`` adds TRAINED_ON: how many texts of a set that was compared the model was trained on.
    """
    rows = [
        {
            "run": run,
            "model": result.model,
            "revision": result.revision,
            "task": name_task(result),
            "metric": metric,
            "value": value,
            "is_main": metric == result.main_metric,
            "samples": result.samples,
            "created_at": result.created_at,
        }
        for result in results
        for metric, value in (result.metrics | _trained_on(result, held)).items()
    ]
    return pa.Table.from_pylist(rows, EVALUATIONS)


def _trained_on(result: Result, held: Sequence[SetContamination] | None) -> dict[str, float]:
    found = None if held is None else find_contamination(result, held)
    return {} if found is None else {TRAINED_ON: float(found.places)}


def name_task(result: Result) -> str:
    """Name what was measured: published tasks with their split, as STSB.validation."""
    if result.task == result.set_name:
        return result.task
    return f"{result.task}.{result.split}"


def commit_results(
    catalog: Catalog,
    results: Sequence[Result],
    run: str | None = None,
    held: Sequence[SetContamination] | None = None,
) -> int:
    """Put results into the catalog; return how many rows came in.

    The same numbers of the same model come in once, however often they are measured.
    """
    rows = make_rows(results, run, held)
    if not rows.num_rows:
        return 0
    models = sorted({(result.model, result.revision) for result in results})
    settings = {"models": models, "run": run}
    with open_job(catalog, "evaluate", settings, {"results": _digest(rows)}) as job:
        if job.is_committed():
            return 0
        with job.output.task("rows", 0) as output:
            output.write(TABLE, rows)
        job.commit()
    return int(rows.num_rows)


def _digest(rows: pa.Table) -> str:
    """Name the numbers, whenever they were measured."""
    content = json.dumps(rows.drop_columns(["created_at"]).to_pylist(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
