"""Drafts of chunks whose rows make one pair each, column by column."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schema import PAIRS
from curation.reading.attributes import read_attributes
from curation.reading.chunks import Chunk
from curation.reading.faults import Faults
from curation.reading.fields import JOINER, FieldPath
from curation.reading.layout import Layout
from curation.reading.nesting import Drafts, Nesting, write_meta
from curation.reading.soundness import column_faults


def draft_rows(chunk: Chunk, layout: Layout, faults: Faults) -> Drafts:
    """Make drafts of a chunk's rows; what cannot be a pair is a fault instead."""
    attributes = read_attributes(chunk, layout, faults)
    if layout.fields.is_one_to_one:
        return _flat(chunk, layout, attributes, faults)
    return Nesting(chunk, layout, faults).drafts(attributes)


def _flat(chunk: Chunk, layout: Layout, attributes: dict[str, pa.Array], faults: Faults) -> Drafts:
    """Make at most one draft of every row, column by column."""
    limit = layout.settings.max_text_bytes
    columns = dict(attributes)
    decoded = {}
    for target in ("query", "positive"):
        columns[target] = _joined(chunk, layout.fields.of(target), target, faults)
        decoded[target] = column_faults(columns[target], target, limit, faults)
    metas = _metas(chunk, layout)
    column_faults(metas, "meta", limit, faults)
    columns["meta"] = metas
    columns["negatives"] = pa.nulls(len(chunk), PAIRS.field("negatives").type)
    index = np.arange(len(chunk), dtype=np.int64)
    if len(faults):
        sound = faults.sound(len(chunk))
        mask = pa.array(sound)
        columns = {name: column.filter(mask) for name, column in columns.items()}
        index, decoded = index[sound], {}
    return Drafts(columns, index, np.zeros(len(index), np.bool_), decoded)


def _joined(chunk: Chunk, paths: Sequence[FieldPath], target: str, faults: Faults) -> pa.Array:
    """Return the texts of a side; parts that are empty are left out of a join."""
    if not paths:
        return pa.nulls(len(chunk), pa.string())
    parts = [chunk.texts(path, target, faults) for path in paths]
    joined = parts[0]
    if len(parts) > 1:
        absent = pa.scalar(None, pa.string())
        filled = [pc.if_else(pc.greater(pc.binary_length(part), 0), part, absent) for part in parts]
        joined = pc.binary_join_element_wise(*filled, JOINER, null_handling="skip")
    for at in np.flatnonzero(joined.is_null().to_numpy(zero_copy_only=False)).tolist():
        if at not in faults:
            faults.add(at, f"{target} is missing")
    return joined


def _metas(chunk: Chunk, layout: Layout) -> pa.Array:
    if not layout.settings.keep_meta:
        return pa.nulls(len(chunk), pa.string())
    return pa.array(map(write_meta, chunk.leftovers(layout.fields)), pa.string())
