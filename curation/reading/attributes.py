"""What stands beside a pair's texts: label, url, instruction, source, form and task, by column."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schema import FORMS, TASKS
from curation.reading.chunks import Chunk
from curation.reading.faults import Faults
from curation.reading.layout import Layout
from curation.reading.settings import ANY_VALUE, AUTO
from curation.reading.soundness import column_faults

Table = Mapping[str, str | float]


def read_attributes(chunk: Chunk, layout: Layout, faults: Faults) -> dict[str, pa.Array]:
    """Return the columns beside the texts for every row of a chunk."""
    label = _labels(chunk, layout, faults)
    task = _named(chunk, layout, "task", layout.task, TASKS, faults)
    labelled = label.is_valid()
    if layout.task == AUTO:
        task = pc.if_else(pc.equal(task, AUTO), pc.if_else(labelled, "sts", "retrieval"), task)
    unlabelled = pc.and_(pc.equal(task, "sts"), pc.invert(labelled))
    for at in np.flatnonzero(unlabelled.to_numpy(zero_copy_only=False)).tolist():
        if at not in faults:
            faults.add(at, "label is missing (task sts)")
    return {
        "label": label,
        "url": _optional(chunk, layout, "url", faults),
        "instruction": _optional(chunk, layout, "instruction", faults),
        "source": _named(chunk, layout, "source", layout.source, (), faults),
        "form": _named(chunk, layout, "form", layout.form, FORMS, faults),
        "task": task,
    }


def _named(
    chunk: Chunk,
    layout: Layout,
    target: str,
    default: str,
    allowed: Collection[str],
    faults: Faults,
) -> pa.Array:
    """Translate a column of names; a null is the default, a name that is not allowed a fault."""
    paths = layout.fields.of(target)
    if not paths:
        return pa.repeat(pa.scalar(default, pa.string()), len(chunk))
    column = chunk.texts(paths[0], target, faults)
    coded = column.dictionary_encode()
    names = coded.dictionary.to_pylist()
    table = layout.settings.values.get(target, {})
    translated = [table.get(name, table.get(ANY_VALUE, name)) for name in names]
    for code, (name, new) in enumerate(zip(names, translated, strict=True)):
        fault = _name_fault(target, name, str(new), allowed)
        if fault is None:
            continue
        translated[code] = None
        for at in pc.indices_nonzero(pc.equal(coded.indices, code).fill_null(False)).to_pylist():
            faults.add(at, fault)
    return pa.array(translated, pa.string()).take(coded.indices).fill_null(default)


def _name_fault(target: str, name: str, new: str, allowed: Collection[str]) -> str | None:
    if not new.strip() or "\0" in new:
        return f"{target} is empty"
    if allowed and new not in allowed:
        return f"{target} {name!r} is none of {', '.join(allowed)}: translate it in values.{target}"
    return None


def _labels(chunk: Chunk, layout: Layout, faults: Faults) -> pa.Array:
    paths = layout.fields.of("label")
    if not paths:
        return pa.nulls(len(chunk), pa.float64())
    table = layout.settings.values.get("label", {})
    values = chunk.values(paths[0])
    numbers = values if not table and _are_finite(values) else _numbers(values, table, faults)
    return pa.array(numbers, pa.float64())


def _are_finite(values: Sequence[Any]) -> bool:
    return all(
        value is None or (type(value) in (int, float) and math.isfinite(value)) for value in values
    )


def _numbers(values: Sequence[Any], table: Table, faults: Faults) -> list[float | None]:
    numbers = []
    for at, value in enumerate(values):
        number = _number(value, table)
        if number is not None and math.isinf(number):
            faults.add(at, "label is not a number")
            number = None
        numbers.append(number)
    return numbers


def _number(value: Any, table: Table) -> float | None:
    """Return a label as a number, None where it is missing, infinity where it is no number."""
    if value is None or value == "":
        return None
    try:
        number = float(table.get(str(value), value))
    except (TypeError, ValueError, OverflowError):
        number = float(table.get(ANY_VALUE, math.inf))
    return None if math.isnan(number) else number


def _optional(chunk: Chunk, layout: Layout, target: str, faults: Faults) -> pa.Array:
    """Return a text that a pair may have: an empty one is none; a url without blanks around it."""
    paths = layout.fields.of(target)
    if not paths:
        return pa.nulls(len(chunk), pa.string())
    texts = chunk.texts(paths[0], target, faults)
    if texts.null_count == len(texts):
        return texts
    trimmed = pc.utf8_trim_whitespace(texts)
    kept = trimmed if target == "url" else texts
    texts = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), kept)
    column_faults(texts, target, layout.settings.max_text_bytes, faults)
    return texts
