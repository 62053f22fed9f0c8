"""Neighbors' neighbors: pairs that share no band key, but a text that both are similar to.

Texts that are similar to the same text are likely to be similar to each other. A pair (a, c) is
proposed if some v is among c's ``neighbors`` most similar texts, and a among those of v. Only edges
that band keys found are followed, and only to texts with smaller ids than c: so what is proposed
for c is decided when c comes, whatever comes later.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicates.pairs import (
    Ids,
    Packed,
    Pairs,
    distinct,
    no_pairs,
    subtract,
    unpack_pairs,
)
from curation.duplicates.settings import DuplicateSettings
from curation.texts import kernel

# What proposed the pair of an edge.
BAND: Final = "band"
NEIGHBOR: Final = "neighbor"


def neighbor_pairs(
    edges: pa.Table, compared: Pairs, settings: DuplicateSettings, new_from: int = 0
) -> Pairs:
    """Propose pairs along the edges that band keys found, but for those compared already.

    Ids from ``new_from`` on are new: the larger id of a proposed pair is one of them.
    """
    if settings.neighbors == 0:
        return no_pairs()
    edges = edges.filter(pc.equal(edges["kind"], BAND))
    ends = np.stack([edges["a_id"].to_numpy(), edges["b_id"].to_numpy()], axis=1)
    ids = distinct(ends)
    bounds, others = _adjacency(np.searchsorted(ids, ends), edges["jaccard"].to_numpy(), len(ids))
    first_new = int(np.searchsorted(ids, new_from))
    packed = propose(bounds, others, first_new, len(ids), settings.neighbors)
    return subtract(unpack_pairs(packed, ids), compared)


def _adjacency(
    rows: npt.NDArray[np.int64], similarities: npt.NDArray[np.float32], texts: int
) -> tuple[Ids, Ids]:
    """List each text's neighbors, the most similar first, ties by id.

    Text i's are others[bounds[i]:bounds[i + 1]].
    """
    sources, others = np.concatenate([rows, rows[:, ::-1]]).T
    order = np.lexsort((others, -np.tile(similarities, 2), sources))
    bounds = np.zeros(texts + 1, np.int64)
    np.cumsum(np.bincount(sources, minlength=texts), out=bounds[1:])
    return bounds, others[order]


@kernel
def propose(bounds: Ids, others: Ids, begin: int, end: int, neighbors: int) -> Packed:
    """Write what is proposed for some texts as row of a << 32 | row of c, with repetitions."""
    room = 0
    for text in range(begin, end):
        room += min(neighbors, bounds[text + 1] - bounds[text]) * neighbors
    out = np.empty(room, np.uint64)
    put = 0
    for text in range(begin, end):
        near = 0
        for at in range(bounds[text], bounds[text + 1]):
            middle = others[at]
            if middle >= text:
                continue
            near += 1
            if near > neighbors:
                break
            far = 0
            for beyond in range(bounds[middle], bounds[middle + 1]):
                other = others[beyond]
                if other >= text:
                    continue
                far += 1
                if far > neighbors:
                    break
                out[put] = (np.uint64(other) << np.uint64(32)) | np.uint64(text)
                put += 1
    return out[:put].copy()
