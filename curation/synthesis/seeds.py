"""Seeds: the passages of a snapshot that a model writes about, drawn by hash.

The order is a draw of each passage's id: more seeds are the same ones and others behind them, and
``skip`` goes on where an earlier run ended.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from catalog import duck
from catalog.draws import draw
from catalog.errors import CatalogError
from catalog.lake import Catalog
from catalog.records import sync_file, sync_folder, writing
from catalog.snapshots import Snapshot, snapshot_reader

_FOLDER: Final = Path(__file__).parent
_FILE: Final = "seeds.arrow"


@dataclass(frozen=True)
class Seed:
    """What a request is about: a passage, and a query that it answers where the kind needs one.

    ``pair_ids`` are all pairs that it speaks for, where that matters.
    """

    pair_id: int
    passage: str
    query: str | None = None
    pair_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class SeedSettings:
    """Which passages are seeds: ``passages`` of them after ``skip``, of a length in characters."""

    passages: int = 1_000
    skip: int = 0
    min_chars: int = 50
    max_chars: int = 2_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings; ValueError says what is allowed."""
        if self.passages < 1 or self.skip < 0:
            raise ValueError("passages must be at least 1, and skip at least 0")
        if not 1 <= self.min_chars <= self.max_chars:
            raise ValueError(
                f"passages of {self.min_chars} to {self.max_chars} characters: there are none"
            )


def choose_seeds(
    catalog: Catalog, snapshot: Snapshot, settings: SeedSettings, *, with_query: bool
) -> pa.Table:
    """Draw seeds of a snapshot's kept rows: (pair_id, query, passage), in the order drawn."""
    with snapshot_reader(catalog, snapshot) as connection:
        found = connection.execute(
            (_FOLDER / "seed_ids.sql").read_text(),
            [settings.min_chars, settings.max_chars, with_query, with_query],
        ).to_arrow_table()
        ids = found["pair_id"].to_numpy()
        order = np.lexsort((ids, draw(settings.seed, "synthesis seeds", ids)))
        chosen = ids[order[settings.skip : settings.skip + settings.passages]]
        if not len(chosen):
            raise CatalogError(
                f"snapshot {snapshot.name!r} has {len(ids):,} passages of {settings.min_chars} to "
                f"{settings.max_chars} characters, none of them after the first {settings.skip:,}; "
                "change --skip, --min-chars or --max-chars"
            )
        return _texts(connection, chosen)


def keep_seeds(folder: Path, draw_them: Callable[[], pa.Table]) -> int:
    """Draw seeds once for a job, write them into its folder, and return how many there are."""
    path = folder / _FILE
    if not path.exists():
        table = draw_them()
        aside = path.with_suffix(".tmp")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            sync_file(aside)
            aside.rename(path)
            sync_folder(folder)
    with pa.memory_map(str(path)) as source:
        return int(pa.ipc.open_file(source).read_all().num_rows)


def read_seeds(folder: Path, first: int, count: int) -> list[Seed]:
    """Read some of the seeds that were drawn for a job."""
    with pa.memory_map(str(folder / _FILE)) as source:
        rows = pa.ipc.open_file(source).read_all().slice(first, count).to_pylist()
    return [
        Seed(row["pair_id"], row["passage"], row["query"], tuple(row.get("pair_ids", ())))
        for row in rows
    ]


def _texts(connection: duck.Connection, chosen: np.ndarray) -> pa.Table:
    places = pa.table({"place": np.arange(len(chosen)), "pair_id": chosen})
    connection.register("chosen_seeds", places)
    return connection.execute((_FOLDER / "seeds.sql").read_text()).to_arrow_table()
