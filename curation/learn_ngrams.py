"""An n-gram model of a snapshot: a drawn sample of its passages, learned and written to a file."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from catalog.draws import draw
from catalog.errors import CatalogError
from catalog.lake import Catalog
from catalog.records import to_json
from catalog.snapshots import Snapshot, snapshot_reader
from curation.ngrams.learn import learn_ngrams
from curation.ngrams.model import save_ngrams
from curation.ngrams.settings import NgramSettings
from curation.texts import Texts, decode

BATCH_ROWS: Final = 20_000
PURPOSE: Final = "n-gram sample"


@dataclass(frozen=True)
class Learned:
    """What was learned from, and how large the model is."""

    passages: int
    chars: int
    ngrams: int


def learn_snapshot(
    catalog: Catalog,
    snapshot: Snapshot,
    path: Path,
    settings: NgramSettings | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Learned:
    """Learn from distinct kept passages, drawn by hash until there are ``max_chars``.

    The same snapshot and settings give the same bytes. ``progress`` is told ("read", characters).
    """
    settings = settings or NgramSettings()
    batches = list(_sample(catalog, snapshot, settings, progress))
    if not batches:
        raise CatalogError(f"snapshot {snapshot.name!r} keeps no passage to learn from")
    model = learn_ngrams(batches, settings)
    chars = sum(len(texts.codepoints) for texts in batches)
    passages = sum(map(len, batches))
    save_ngrams(model, path, {
        "snapshot": snapshot.name, "snapshot_digest": snapshot.digest,
        "settings": to_json(asdict(settings)), "passages": str(passages), "chars": str(chars),
    })  # fmt: skip
    return Learned(passages, chars, len(model.keys))


def _sample(
    catalog: Catalog,
    snapshot: Snapshot,
    settings: NgramSettings,
    progress: Callable[[str, int], None] | None,
) -> list[Texts]:
    with snapshot_reader(catalog, snapshot) as connection:
        rows = connection.execute(
            """
            select min(pair_id) as pair_id, max(length(positive)) as chars
            from pairs join verdicts using (pair_id)
            where kept group by positive_key order by 1
            """
        ).to_arrow_table()
        ids, chars = (rows[name].to_numpy() for name in ("pair_id", "chars"))
        order = np.lexsort((ids, draw(settings.seed, PURPOSE, ids)))
        before = np.cumsum(chars[order]) - chars[order]
        chosen = np.sort(ids[order[before < settings.max_chars]])
        connection.register("chosen_passages", pa.table({"pair_id": chosen}))
        reader = connection.execute(
            "select p.positive from pairs p semi join chosen_passages using (pair_id) "
            "order by p.pair_id"
        ).to_arrow_reader(BATCH_ROWS)
        found, done = [], 0
        for batch in reader:
            found.append(decode(batch.column(0)))
            done += len(found[-1].codepoints)
            if progress is not None:
                progress("read", done)
        return found
