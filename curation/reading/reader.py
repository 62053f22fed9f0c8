"""Source files as batches of pairs with keys and ids, and of rows for quarantine."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from catalog.schema import FILE_SHIFT, PAIRS, QUARANTINE
from curation.reading.chunks import Chunk, ChunkSize
from curation.reading.drafts import draft_rows
from curation.reading.errors import SourceFileError
from curation.reading.faults import Faults, Reject, Rows
from curation.reading.formats import open_chunks
from curation.reading.layout import Layout, plan_layout
from curation.reading.nesting import Drafts
from curation.reading.page_files import PAGE_FORMATS
from curation.reading.reach import Reach
from curation.reading.settings import SourceSettings
from curation.reading.source_path import SourcePath, locate
from curation.texts import decode, instructed_keys, normalize, pair_keys, text_keys

ORDINALS = 1 << FILE_SHIFT


@dataclass(frozen=True)
class ReadBatch:
    """What some source rows became.

    ``rows`` counts them, whether they made pairs or not; ``bytes_read`` is how much of the file has
    been read so far.
    """

    pairs: pa.RecordBatch
    quarantine: pa.RecordBatch
    rows: int
    bytes_read: int


def read_pairs(
    path: SourcePath | str, settings: SourceSettings, file_id: int, batch_rows: int = ChunkSize.rows
) -> Iterator[ReadBatch]:
    """Read a source file; how it is read is decided, and refused, before this returns.

    The batches of a file depend on its bytes, the settings and ``batch_rows`` alone.
    """
    return read_layout(plan_layout(locate(path), settings), file_id, batch_rows)


def read_layout(
    layout: Layout, file_id: int, batch_rows: int = ChunkSize.rows
) -> Iterator[ReadBatch]:
    """Read a file whose layout is decided."""
    columns = None if layout.settings.keep_meta else set(layout.fields.used)
    reach = Reach()
    chunks = open_chunks(
        layout.path,
        layout.format,
        layout.settings,
        reach,
        columns,
        layout.text_columns,
        _chunk_size(layout, batch_rows),
    )
    done = quarantined = ordinal = 0
    reasons: dict[str, int] = {}
    for chunk in chunks:
        faults = Faults()
        drafts = draft_rows(chunk, layout, faults)
        rejects = [*chunk.rejects, *faults.rejects(chunk.rows, chunk.raws(faults.indexes()))]
        pairs = _finish(drafts, chunk, layout, file_id, ordinal)
        ordinal += pairs.num_rows
        done, quarantined = done + pairs.num_rows, quarantined + len(rejects)
        for reject in rejects:
            reasons[reject.reason] = reasons.get(reject.reason, 0) + 1
        yield ReadBatch(pairs, _quarantine(rejects, file_id), chunk.rows_read, reach.bytes)
    # A page without content is no sign of a wrong mapping: its reason is in the quarantine.
    if done == 0 and not (quarantined and layout.format.name in PAGE_FORMATS):
        raise SourceFileError(
            layout.path, _nothing(reasons), "check its content and the field mapping"
        )


def _chunk_size(layout: Layout, batch_rows: int) -> ChunkSize:
    size = ChunkSize(rows=batch_rows)
    # Each positive of a row repeats the row's negatives.
    return size if layout.fields.is_one_to_one else ChunkSize(batch_rows, size.bytes // 4)


def _nothing(reasons: dict[str, int]) -> str:
    if not reasons:
        return "holds no rows"
    worst = max(reasons, key=lambda reason: (reasons[reason], reason))
    return f"not one of its rows is a pair ({reasons[worst]:,} rows: {worst})"


def _finish(
    drafts: Drafts, chunk: Chunk, layout: Layout, file_id: int, ordinal: int
) -> pa.RecordBatch:
    """Add keys and ids; a given negative is dropped where its text is a passage already."""
    columns = dict(drafts.columns)
    for target in ("query", "positive"):
        texts = drafts.decoded.get(target) or decode(columns[target])
        columns[f"{target}_key"] = text_keys(normalize(texts))
    columns["query_key"] = instructed_keys(columns["query_key"], columns["instruction"])
    columns["pair_key"] = pair_keys(columns["query_key"], columns["positive_key"])
    rows = chunk.rows[drafts.index]
    if drafts.is_passage.any():
        fresh = _first_of_text(columns["positive_key"], drafts.is_passage)
        columns = {name: column.filter(pa.array(fresh)) for name, column in columns.items()}
        rows = rows[fresh]
    ordinals = rows if layout.rows_are_pairs else np.arange(ordinal, ordinal + len(rows))
    columns["file_row"] = pa.array(rows, pa.int64())
    columns["pair_id"] = _pair_ids(layout.path, ordinals, file_id)
    return pa.RecordBatch.from_arrays([columns[name] for name in PAIRS.names], schema=PAIRS)


def _pair_ids(path: SourcePath, ordinals: Rows, file_id: int) -> pa.Array:
    if len(ordinals) and int(ordinals[-1]) >= ORDINALS:
        raise SourceFileError(path, f"makes more than {ORDINALS:,} rows", "split the file")
    return pa.array((file_id << FILE_SHIFT) + ordinals, pa.int64())


def _first_of_text(keys: pa.Array, is_passage: np.ndarray) -> np.ndarray:
    """Keep all pairs, and the first passage of each text that is no pair's positive here."""
    raw = np.frombuffer(keys.storage.buffers()[1], "V16")[keys.storage.offset :][: len(keys)]
    pairs = set(raw[~is_passage].tolist())
    keep = np.ones(len(keys), np.bool_)
    for at in np.flatnonzero(is_passage):
        key = raw[at].tobytes()
        keep[at] = key not in pairs
        pairs.add(key)
    return keep


def _quarantine(rejects: Collection[Reject], file_id: int) -> pa.RecordBatch:
    ordered = sorted(rejects, key=lambda reject: reject.row)  # stable: reasons stay in their order
    return pa.RecordBatch.from_arrays(
        [
            pa.array([file_id] * len(ordered), pa.int64()),
            pa.array([reject.row for reject in ordered], pa.int64()),
            pa.array([reject.reason for reject in ordered], pa.string()),
            pa.array([reject.raw for reject in ordered], pa.binary()),
        ],
        schema=QUARANTINE,
    )
