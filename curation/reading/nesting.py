"""Drafts of chunks whose rows hold several pairs, or negatives, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schema import PAIRS
from curation.reading.arrow_rows import plain
from curation.reading.chunks import Chunk
from curation.reading.faults import Faults, Rows
from curation.reading.fields import ALIGNED_SCORES, JOINER
from curation.reading.layout import Layout
from curation.reading.soundness import value_fault
from curation.texts import Texts

_JSON: Final = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True)
class Drafts:
    """Columns of ``pairs`` without ids and keys; row i was made of row ``index[i]`` of the chunk.

    ``is_passage`` marks rows that were made of given negatives. ``decoded`` holds sides that were
    decoded on the way.
    """

    columns: dict[str, pa.Array]
    index: Rows
    is_passage: npt.NDArray[np.bool_]
    decoded: dict[str, Texts] = field(default_factory=dict)


def write_meta(rest: dict[str, Any]) -> bytes | None:
    """Write what a row holds beside its pair as JSON, keys sorted; None where there is nothing."""
    return orjson.dumps(rest, option=_JSON, default=plain) if rest else None


class Nesting:
    """Makes the drafts of rows that hold several pairs, or negatives, one by one."""

    def __init__(self, chunk: Chunk, layout: Layout, faults: Faults) -> None:
        self.chunk, self.layout, self.faults = chunk, layout, faults
        self.limit = layout.settings.max_text_bytes
        self.index: list[int] = []
        self.is_passage: list[bool] = []
        self.queries: list[str | None] = []
        self.positives: list[str] = []
        self.negatives: list[list[str] | None] = []
        self.metas: list[bytes | None] = []

    def drafts(self, attributes: dict[str, pa.Array]) -> Drafts:
        """Make all drafts: the pairs of a row, then its given negatives as passages."""
        fields = self.layout.fields
        queries = self._side("query") if fields.of("query") else [None] * len(self.chunk)
        read_positives = self._lists if fields.positives_are_lists else self._side
        positives = read_positives("positive")
        negatives = self._lists("negatives")
        rests: Sequence[dict[str, Any]] = [{}] * len(self.chunk)
        if self.layout.settings.keep_meta:
            rests = self.chunk.leftovers(fields)
        has_query = bool(fields.of("query"))
        for at, (query, positive, negative, rest) in enumerate(
            zip(queries, positives, negatives, rests, strict=True)
        ):
            if at in self.faults or (has_query and not self._is_sound(at, "query", query)):
                continue
            texts = positive if isinstance(positive, list) else [positive]
            self._add(at, query, texts, negative, dict(rest))
        return self._collect(attributes)

    def _add(
        self,
        at: int,
        query: str | None,
        positives: list[Any],
        negatives: list[Any],
        rest: dict[str, Any],
    ) -> None:
        if not positives:
            self.faults.add(at, "positive is an empty list")
        sound = [i for i, text in enumerate(negatives) if self._is_sound(at, "negative", text)]
        given = [negatives[i] for i in sound]
        if len(positives) * sum(map(len, given)) > self.layout.settings.max_row_bytes:
            self.faults.add(at, "negatives of every positive are longer than max_row_bytes")
            return
        scores = _aligned(rest, "positive", len(positives))
        negative_scores = _aligned(rest, "negatives", len(negatives))
        if negative_scores:
            rest[ALIGNED_SCORES["negatives"]] = [negative_scores[i] for i in sound]
        for i, positive in enumerate(positives):
            if self._is_sound(at, "positive", positive):
                meta = write_meta(rest | {"pos_score": scores[i]} if scores else rest)
                if meta is not None and len(meta) > self.limit:
                    self.faults.add(at, "meta is longer than max_text_bytes")
                else:
                    self._append(at, False, query, positive, given or None, meta)
        for text in given:
            self._append(at, True, None, text, None, None)

    def _append(
        self,
        at: int,
        is_passage: bool,
        query: str | None,
        positive: str,
        negatives: list[str] | None,
        meta: bytes | None,
    ) -> None:
        self.index.append(at)
        self.is_passage.append(is_passage)
        self.queries.append(query)
        self.positives.append(positive)
        self.negatives.append(negatives)
        self.metas.append(meta)

    def _collect(self, attributes: dict[str, pa.Array]) -> Drafts:
        index = np.array(self.index, np.int64)
        is_passage = np.array(self.is_passage, np.bool_)
        columns = {name: column.take(pa.array(index)) for name, column in attributes.items()}
        for name in ("label", "url", "instruction"):  # they are the pair's, not the negative's
            absent = pa.scalar(None, columns[name].type)
            columns[name] = pc.if_else(pa.array(is_passage), absent, columns[name])
        columns["query"] = pa.array(self.queries, pa.string())
        columns["positive"] = pa.array(self.positives, pa.string())
        columns["negatives"] = pa.array(self.negatives, PAIRS.field("negatives").type)
        columns["meta"] = pa.array(self.metas, pa.string())
        return Drafts(columns, index, is_passage)

    def _is_sound(self, at: int, name: str, text: Any) -> bool:
        fault = value_fault(text, self.limit)
        if fault:
            self.faults.add(at, f"{name} {fault}")
        return fault is None

    def _side(self, target: str) -> list[Any]:
        """Return one value a row; several columns are joined."""
        columns = [self.chunk.values(path) for path in self.layout.fields.of(target)]
        if len(columns) == 1:
            return columns[0]
        return [_join(parts) for parts in zip(*columns, strict=True)]

    def _lists(self, target: str) -> list[list[Any]]:
        """Return a list a row, of what one or several columns hold."""
        columns = [self.chunk.values(path) for path in self.layout.fields.of(target)]
        if not columns:
            return [[] for _ in range(len(self.chunk))]
        return [
            [item for part in parts for item in _items(part)]
            for parts in zip(*columns, strict=True)
        ]


def _items(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _join(parts: Sequence[Any]) -> Any:
    """Join texts as ``_joined`` does; a value that is no text is returned for its fault."""
    wrong = [part for part in parts if part is not None and not isinstance(part, str)]
    if wrong:
        return wrong[0]
    return JOINER.join(part for part in parts if part) or None


def _aligned(rest: dict[str, Any], target: str, size: int) -> list[Any]:
    """Take the scores of a row's texts out of its rest, where there is one for each."""
    name = ALIGNED_SCORES[target]
    scores = rest.get(name)
    if not isinstance(scores, list) or len(scores) != size or not scores:
        return []
    del rest[name]
    return scores
