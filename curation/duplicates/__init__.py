"""Near-duplicate texts: candidates by band keys, exact Jaccard, clusters.

    (id, band keys) ─ buckets ─▶ candidate pairs ─ edges ─▶ edges ─ clusters ─▶ cluster of each text
                                                     ▲         │
                                                     └neighbors┘

``buckets`` chooses the pairs to compare, ``edges`` compares them exactly and keeps those above a
floor with their Jaccard similarity, ``neighbors`` proposes pairs that share a neighbor but no key,
``clusters`` joins what is similar enough. All are functions of arrays; ``curation.deduplicate``
runs them on a catalog.

Ids only grow: a text that comes later has a larger id than all that were there. Whether two texts
are compared depends on them and on texts with smaller ids alone, so what was found stays found and
stays complete: comparing only the new texts gives what comparing all again would give.
"""

from curation.duplicates.buckets import bucket_pairs, candidate_pairs
from curation.duplicates.clusters import clusters
from curation.duplicates.edges import Fetch, near_duplicates, verify
from curation.duplicates.neighbors import neighbor_pairs
from curation.duplicates.pairs import unique_pairs
from curation.duplicates.settings import DuplicateSettings

__all__ = [
    "DuplicateSettings",
    "Fetch",
    "bucket_pairs",
    "candidate_pairs",
    "clusters",
    "near_duplicates",
    "neighbor_pairs",
    "unique_pairs",
    "verify",
]
