"""Queries to mine again: those whose candidates a training run has used up (``train_events``)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from catalog.errors import CatalogError
from catalog.expressions import unknown_name
from catalog.lake import Catalog

SQL: Final = Path(__file__).parent / "sql" / "exhausted_queries.sql"


@dataclass(frozen=True)
class ExhaustedQueries:
    """Ids [n], ascending, of the queries that a training run has marked."""

    train_run: str
    query_ids: npt.NDArray[np.int64]

    @property
    def digest(self) -> str:
        """Name the queries: more of them, a step later, are another mining run."""
        return hashlib.sha256(self.query_ids.tobytes()).hexdigest()[:16]


def exhausted_queries(catalog: Catalog, train_run: str | None = None) -> ExhaustedQueries:
    """Return the marked queries of a training run; without a name, of the only one that has any.

    Marks are in the lake as of the run's last checkpoint.
    """
    with catalog.reader() as connection:
        rows = connection.execute(
            "select run, count(*) filter (reason = 'exhausted') > 0 from train_events "
            "group by run order by run"
        ).fetchall()
        name = _choose(dict(rows), train_run)
        sql = SQL.read_text(encoding="utf-8")
        found = connection.execute(sql, {"run": name}).fetchnumpy()["query_id"]
    if not len(found):
        raise CatalogError(
            f"training run {name!r} waits for no list: what it had marked has been mined again"
        )
    return ExhaustedQueries(name, np.asarray(found, np.int64))


def _choose(has_marks: dict[str, bool], name: str | None) -> str:
    marked = [run for run, is_marked in has_marks.items() if is_marked]
    if name is not None and name not in has_marks:
        raise CatalogError(unknown_name("training run with events", name, list(has_marks)))
    if name is not None and name not in marked:
        raise CatalogError(
            f"training run {name!r} has used up no candidate list as of its last checkpoint; "
            "there is nothing to mine again"
        )
    if name is None and len(marked) != 1:
        found = ", ".join(marked) or "none"
        raise CatalogError(
            f"training runs that have used up candidate lists: {found}; name one with --train-run"
        )
    return name or marked[0]
