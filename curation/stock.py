"""Stock datatrove filters as signals: their verdict is recorded, and no row is dropped.

A filter is run as its author wrote it, a Python object and a call per text: some hundred texts a
second. Where a signal of Lode says the same, take that one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from datatrove.data import Document

from curation.signals.batch import PairBatch, Side
from curation.signals.registry import Columns, Family, Measure, claim
from curation.signals.settings import SignalSettings

# A filter says True, False, or (False, why); None is False to datatrove.
Verdict = bool | tuple[bool, str] | None
_SIDES: Final = ("query", "passage", "pair")
# What stock filters raise on odd texts (no words, an empty url); a set-up that fails must fail.
_TEXT_ERRORS: Final = (ArithmeticError, AssertionError, LookupError, ValueError)


@dataclass(frozen=True)
class StockFilter:
    """Verdict of a stock datatrove filter."""

    name: str
    filter: Any  # a datatrove BaseFilter

    def __call__(self, batch: PairBatch, side: Side, _: SignalSettings) -> Columns:
        """Run the filter over one side, or over query and passage with a line end between."""
        documents = _documents(batch, side)
        rows = [row for row, document in enumerate(documents) if document is not None]
        present = [document for document in documents if document is not None]
        size = max(self.filter.batch_size, 1)
        kept: list[bool | None] = [None] * len(batch)
        reasons: list[str | None] = [None] * len(batch)
        verdicts = [
            verdict
            for start in range(0, len(present), size)
            for verdict in _judge(self.filter, present[start : start + size])
        ]
        for row, verdict in zip(rows, verdicts, strict=True):
            kept[row], reasons[row] = _split(verdict)
        return {
            f"{self.name}_kept": pa.array(kept, pa.bool_()),
            f"{self.name}_reason": pa.array(reasons, pa.string()),
        }


def stock_filter_signal(name: str, filter: Any, side: Side, version: int = 1) -> Family:
    """Make a family of a datatrove filter: `<side>_<name>_kept` and `<side>_<name>_reason`.

    Raise `version` when the filter's options change: they cannot be read from a filter.
    """
    if not name.isidentifier():
        raise ValueError(f"{name!r} cannot be part of a column's name: use letters, digits and _")
    if side not in _SIDES:
        raise ValueError(f"there is no side {side!r}: it is one of {', '.join(_SIDES)}")
    if not callable(getattr(filter, "filter_batch", None)):
        raise ValueError(f"{filter!r} is no datatrove filter: give an instance of a BaseFilter")
    title = f"{type(filter).__module__}.{type(filter).__qualname__}"
    return Family(
        name,
        (side,),
        (
            claim(f"{name}_kept", f"{title} keeps the text; null where it failed", title),
            Measure(
                f"{name}_reason", "why not, or how it failed", "name", pa.string(), source=title
            ),
        ),
        StockFilter(name, filter),
        version,
        depends=lambda _: (title,),
    )


def _documents(batch: PairBatch, side: Side) -> list[Document | None]:
    texts = _texts(batch, side)
    ids = batch.column("pair_id").to_pylist()
    urls = batch.column("url").to_pylist() if batch.has("url") else [None] * len(batch)
    return [
        None if text is None else Document(text, str(one), metadata={"url": url} if url else {})
        for text, one, url in zip(texts, ids, urls, strict=True)
    ]


def _texts(batch: PairBatch, side: Side) -> list[str | None]:
    if side != "pair":
        texts: list[str | None] = batch.column(
            "query" if side == "query" else "positive"
        ).to_pylist()
        return texts
    sides = (_texts(batch, "query"), _texts(batch, "passage"))
    return [
        None if query is None or passage is None else f"{query}\n{passage}"
        for query, passage in zip(*sides, strict=True)
    ]


def _judge(filter: Any, documents: Sequence[Document]) -> list[Verdict | Exception]:
    """Ask the filter; where it fails on several texts at once, ask for each alone."""
    try:
        return list(filter.filter_batch(documents))
    except _TEXT_ERRORS as error:
        if len(documents) == 1:
            return [error]
        return [verdict for document in documents for verdict in _judge(filter, [document])]


def _split(verdict: Verdict | Exception) -> tuple[bool | None, str | None]:
    if isinstance(verdict, Exception):
        return None, f"{type(verdict).__name__}: {verdict}"
    kept, reason = verdict if isinstance(verdict, tuple) else (verdict, None)
    return bool(kept), None if kept else reason
