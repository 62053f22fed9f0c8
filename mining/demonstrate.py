"""The demonstration of mining: a curated snapshot gets vectors, scores, candidates and a pack."""

from collections.abc import Callable
from pathlib import Path

from catalog.executors import ExecutorSettings
from catalog.lake import Catalog, scalar
from catalog.pack import PackSettings, build_pack
from catalog.snapshots import Snapshot
from mining.embed import embed
from mining.encoder import SIDES, EncoderSettings
from mining.mine import mine
from mining.mine_settings import MineSettings
from mining.score import score

DEPTH = 100
# arXiv 2408.15710: bge-large-zh-v1.5 gives 400M of 450M pairs at least 0.4.
PUBLISHED_SCORE = 0.4
PUBLISHED_SHARE = 0.89


def demonstrate(
    catalog: Catalog,
    snapshot: Snapshot,
    folder: Path,
    executor: ExecutorSettings,
    say: Callable[[str], None],
) -> None:
    """Embed with the built-in encoder, score, mine and pack; say what was found."""
    encoder = EncoderSettings()
    for side in SIDES:
        done = embed(catalog, snapshot, encoder, side, executor)
        say(f"embedded {done.texts:,} {side} texts with {done.store.spec.model}")
    scored = score(catalog, snapshot, encoder, executor)
    reached = reached_share(catalog, scored.model, PUBLISHED_SCORE)
    say(
        f"scored {scored.pairs:,} pairs with {scored.model}: {reached:.0%} reach "
        f"{PUBLISHED_SCORE}; of the paper's {PUBLISHED_SHARE:.0%}, with a model that knows meaning"
    )
    mined = mine(catalog, snapshot, MineSettings(DEPTH), encoder)
    say(mined.summary())
    say(f"the positive is the first of all passages for {first_share(catalog, mined.run):.1%}")
    pack = build_pack(catalog, snapshot, folder, PackSettings(mined.run, scored.model))
    counts = pack.manifest.counts
    say(f"pack {folder}: {counts.passages:,} passages, {counts.lists:,} candidate lists")


def reached_share(catalog: Catalog, model: str, least: float) -> float:
    """Return the share of a model's scores that reach a number."""
    sql = "select avg((score >= ?)::int) from scores where model = ?"
    with catalog.reader() as connection:
        return float(str(scalar(connection, sql, [least, model]) or 0.0))


def first_share(catalog: Catalog, run: str) -> float:
    """Return for which share of the queries the best-ranked passage is a positive."""
    with catalog.reader() as connection:
        found = scalar(
            connection,
            "select avg((filtered_by[1] & 1)::int) from candidates where run = ?",
            [run],
        )
    return float(str(found or 0.0))
