"""Clusters: texts that are connected by edges of at least the threshold.

Connected components chain: a is like b, b like c, and a may be unlike c. In a large cluster of one
template that is the rule, so each text keeps its own best match, and the cluster's size says it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from curation.duplicates.pairs import Ids, distinct
from curation.duplicates.shingles import Similarities

CLUSTERS = pa.schema(
    [
        pa.field("pair_id", pa.int64(), nullable=False),
        pa.field("cluster_id", pa.int64(), nullable=False),  # smallest id of the cluster
        pa.field("matched_id", pa.int64(), nullable=False),  # the most similar text, ties by id
        pa.field("jaccard", pa.float32(), nullable=False),  # with matched_id
        pa.field("cluster_size", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, eq=False)
class _Members:
    """Texts that have an edge, by id."""

    ids: Ids
    cluster_ids: Ids
    matched_ids: Ids
    similarities: Similarities


def clusters(edges: pa.Table | Iterable[pa.Table], threshold: float) -> pa.Table:
    """Join edges (a_id, b_id, jaccard) to clusters; a row for every text that has an edge.

    Edges may come in parts: what is held is one part and a few numbers for each text in a cluster.
    """
    none = np.empty(0, np.int64)
    members = _Members(none, none, none, np.empty(0, np.float32))
    for part in [edges] if isinstance(edges, pa.Table) else edges:
        members = _join(members, part, threshold)
    _, rows, sizes = np.unique(members.cluster_ids, return_inverse=True, return_counts=True)
    columns = [members.ids, members.cluster_ids, members.matched_ids, members.similarities]
    return pa.table([pa.array(column) for column in (*columns, sizes[rows])], CLUSTERS)


def _join(members: _Members, edges: pa.Table, threshold: float) -> _Members:
    """Add edges to what earlier ones joined."""
    similarities = edges["jaccard"].to_numpy()
    # Both sides as float32: 0.9 as float32 is a little less than 0.9.
    near = similarities >= np.float32(threshold)
    a_ids, b_ids = edges["a_id"].to_numpy()[near], edges["b_id"].to_numpy()[near]
    similarities = similarities[near]
    ids = distinct(np.concatenate([members.ids, a_ids, b_ids]))
    # A cluster that was found is joined to the next by its members' edges to its first text.
    joined = _components(
        np.searchsorted(ids, np.concatenate([members.ids, a_ids])),
        np.searchsorted(ids, np.concatenate([members.cluster_ids, b_ids])),
        len(ids),
    )
    matched_ids, best = _best_matches(
        np.concatenate([members.ids, a_ids, b_ids]),
        np.concatenate([members.matched_ids, b_ids, a_ids]),
        np.concatenate([members.similarities, similarities, similarities]),
    )
    return _Members(ids, ids[joined], matched_ids, best)


def _components(
    a_rows: npt.NDArray[np.intp], b_rows: npt.NDArray[np.intp], texts: int
) -> npt.NDArray[np.intp]:
    """Return the first row of each row's component."""
    graph = coo_matrix((np.ones(len(a_rows), np.bool_), (a_rows, b_rows)), (texts, texts))
    _, labels = connected_components(graph, directed=False)
    _, first, rows = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(first[rows])


def _best_matches(
    ids: Ids, matched_ids: Ids, similarities: Similarities
) -> tuple[Ids, Similarities]:
    """Return the best match of each distinct id, in the order of the ids."""
    order = np.lexsort((matched_ids, -similarities, ids))
    ids = ids[order]
    first = order[np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])] if len(ids) else order
    return matched_ids[first], similarities[first]
