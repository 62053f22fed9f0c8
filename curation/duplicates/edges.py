"""Edges: pairs of texts that are similar, each with its exact Jaccard similarity."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from curation.duplicates.buckets import candidate_pairs
from curation.duplicates.neighbors import BAND, NEIGHBOR, neighbor_pairs
from curation.duplicates.pairs import Ids, Pairs, distinct
from curation.duplicates.settings import DuplicateSettings
from curation.duplicates.shingles import Similarities, jaccard, shingle
from curation.minhash import Hashes
from curation.texts import Texts

# Gives the normalised texts of some ids; both ascend.
Fetch = Callable[[Ids], Texts]

EDGES: Final = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),  # what proposed the pair: BAND or NEIGHBOR
        pa.field("a_id", pa.int64(), nullable=False),
        pa.field("b_id", pa.int64(), nullable=False),
        pa.field("jaccard", pa.float32(), nullable=False),
    ]
)

# A character of a chunk's texts: its code point, its shingle's hash, and room to make them.
_BYTES_PER_CHAR: Final = 4 + 8 + 8
# Enough to spread the cost of a fetch; in a cluster they share a few thousand texts.
_CHUNK_PAIRS: Final = 250_000


def near_duplicates(
    bands: Iterable[tuple[Hashes, Ids]],
    fetch: Fetch,
    settings: DuplicateSettings,
    new_from: int = 0,
    known: pa.Table | None = None,
) -> pa.Table:
    """Find the edges of texts given by the (band key, id) rows of each band.

    With ``new_from`` only texts from that id on are compared with all, and ``known`` holds the
    edges that were found before; the edges returned are the new ones.
    """
    pairs = candidate_pairs(bands, settings, new_from)
    found = edge_table(BAND, *verify(pairs, fetch, settings))
    graph = found if known is None else pa.concat_tables([known, found])
    proposed = neighbor_pairs(graph, pairs, settings, new_from)
    more = edge_table(NEIGHBOR, *verify(proposed, fetch, settings))
    return pa.concat_tables([found, more])


def verify(pairs: Pairs, fetch: Fetch, settings: DuplicateSettings) -> tuple[Pairs, Similarities]:
    """Compare pairs exactly; return those from the edge floor on, with their similarity."""
    kept, similarities = [pairs[:0]], [np.empty(0, np.float32)]
    for begin in range(0, len(pairs), _CHUNK_PAIRS):
        for some, similarity in _verify_chunk(pairs[begin : begin + _CHUNK_PAIRS], fetch, settings):
            kept.append(some)
            similarities.append(similarity)
    return np.concatenate(kept), np.concatenate(similarities)


def edge_table(kind: str, pairs: Pairs, similarities: Similarities) -> pa.Table:
    """Put edges into a table of the shape EDGES."""
    kinds = pa.repeat(pa.scalar(kind), len(pairs))
    columns = [kinds, pa.array(pairs[:, 0]), pa.array(pairs[:, 1]), pa.array(similarities)]
    return pa.table(columns, EDGES)


def _verify_chunk(
    pairs: Pairs, fetch: Fetch, settings: DuplicateSettings
) -> Iterator[tuple[Pairs, Similarities]]:
    """Compare a chunk of pairs, in halves where its texts would take too much memory."""
    ids = distinct(pairs)
    texts = fetch(ids)
    if len(pairs) > 1 and len(texts.codepoints) * _BYTES_PER_CHAR > settings.memory_mb << 20:
        del texts
        half = len(pairs) // 2
        yield from _verify_chunk(pairs[:half], fetch, settings)
        yield from _verify_chunk(pairs[half:], fetch, settings)
        return
    rows = np.searchsorted(ids, pairs)
    sets = shingle(texts, settings.ngram_chars)
    similarities = jaccard(sets, rows[:, 0], rows[:, 1], settings.edge_floor)
    kept = similarities > 0
    yield pairs[kept], similarities[kept]
