"""What do dynamic hard negatives cost a training step, beside negatives that never change?

python -m benchmarks.dynamic_negatives                                   # 500,000 pairs made up
python -m benchmarks.dynamic_negatives --pairs 'data/pairs/*.parquet'    # columns text1 and text2

Times are of this process's own CPU, all its threads, so that a busy machine does not count. In the
first table the model is left out: scores are drawn, so that about one negative in ten gives way at
a check. ``--model-steps`` then trains a real one, 6 layers of 384, to say what a step takes, and
times the start of the run on the pack.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.encoding import make_model
from benchmarks.machine import describe
from benchmarks.pack import SEED, start_catalog
from catalog.jobs import open_job
from catalog.lake import Catalog
from catalog.pack import NONE, Pack, PackSettings, build_pack
from catalog.schema import CANDIDATES
from catalog.snapshots import Snapshot
from trainer.live_candidates import LiveCandidates
from trainer.negative_rules import NegativeSettings, Rule
from trainer.negatives import DynamicNegatives, load_negatives, save_negatives
from trainer.run_log import RunLog

NEGATIVES = 7
DEPTH = 100
MAX_TOKENS = 64  # of the real model: its step keeps the activations of all texts
POOL_STEPS = 100  # steps of pairs that take turns: each is seen once between two checks
Spent = dict[str, list[float]]


def mine_at_random(catalog: Catalog, digest: str, chosen: np.ndarray, seed: int) -> str:
    """Commit lists of random passages for some queries, a fifth of them removed."""
    with catalog.reader() as reader:
        sql = "select distinct passage_id from text_ids order by 1"
        passage_ids = reader.execute(sql).fetchnumpy()["passage_id"]
    random = np.random.default_rng(seed)
    settings = {"snapshot_digest": digest, "seed": seed}
    with open_job(catalog, "mine", settings, {}) as job:
        with job.output.task("mine", 0) as output:
            for block in np.array_split(chosen, max(1, len(chosen) // 5000)):
                shape = (len(block), DEPTH)
                offsets = np.arange(len(block) + 1, dtype=np.int32) * DEPTH
                columns = [
                    pa.array(block),
                    pa.array([job.job_id] * len(block)),
                    pa.ListArray.from_arrays(offsets, random.choice(passage_ids, DEPTH * shape[0])),
                    pa.ListArray.from_arrays(
                        offsets, -np.sort(-random.random(shape, np.float32)).ravel()
                    ),
                    pa.ListArray.from_arrays(
                        offsets, (random.random(shape) < 0.2).astype(np.uint8).ravel()
                    ),
                    pa.array(np.full(len(block), 0.9, np.float32)),
                ]
                output.write("candidates", pa.table(columns, schema=CANDIDATES))
        job.commit()
        return job.job_id


@contextmanager
def timed(spent: Spent, name: str) -> Iterator[None]:
    ticked = time.process_time()
    yield
    spent[name].append(1000 * (time.process_time() - ticked))


def drawn_scores(step: int, mask: np.ndarray) -> np.ndarray:
    """Draw scores that fall enough for about one replacement in ten observations."""
    random = np.random.default_rng((SEED, step))
    mean = np.where(random.random((len(mask), 1)) < 0.1, 0.3, 0.6)
    return np.where(mask, mean + random.normal(0, 0.02, mask.shape), np.nan).astype(np.float32)


def run_steps(
    negatives: DynamicNegatives, pack: Pack, batches: np.ndarray, steps: int, log: RunLog
) -> tuple[Spent, int]:
    """Make steps without a model, of batches [n, b] in turn.

    Return CPU milliseconds of every part, and the replacements.
    """
    spent: Spent = defaultdict(list)
    query = pack.pairs().query
    replaced = 0
    for step in range(1, steps + 1):
        positions = batches[(step - 1) % len(batches)]
        with timed(spent, "choose"):
            chosen = negatives.choose(query[positions])
        with timed(spent, "texts"):
            pack.texts("passage", chosen.rows[chosen.mask])
        scores = drawn_scores(step, chosen.mask)
        with timed(spent, "observe"):
            negatives.observe(step, positions, scores)
        with timed(spent, "check"):
            checked = negatives.check(step)
        with timed(spent, "events"):
            if checked is not None:
                log.append(checked.events)
        replaced += 0 if checked is None else checked.counts.get("replaced", 0)
    return spent, replaced


def report_rule(rule: Rule, pack: Pack, batches: np.ndarray, steps: int, work: Path) -> None:
    negatives = DynamicNegatives(pack, NegativeSettings.published(rule, NEGATIVES), "a")
    shutil.rmtree(work / "events", ignore_errors=True)
    log = RunLog(
        work / "events", f"benchmark-{rule}", Catalog.open(str(work / "corpus")), "train_events"
    )
    log.begin(0)
    spent, replaced = run_steps(negatives, pack, batches, steps, log)
    means = [statistics.fmean(spent[name]) for name in ("choose", "observe", "check", "events")]
    texts = statistics.fmean(spent["texts"])
    own, total = sum(means), sum(means) + texts
    columns = " | ".join(f"{value:.3f}" for value in [*means, own, texts, total])
    worst = max(spent["check"])
    print(f"| {rule} | {replaced:,} | {columns} | {worst:.1f} |")
    report_checkpoint(negatives, log, steps, work, rule)


def report_checkpoint(
    negatives: DynamicNegatives, log: RunLog, steps: int, work: Path, rule: str
) -> None:
    spent: Spent = defaultdict(list)
    path = work / "negatives.npz"
    with timed(spent, "commit"):
        events = log.commit(steps)
    with timed(spent, "save"):
        save_negatives(path, negatives.state_dict(steps))
    with timed(spent, "load"):
        negatives.load_state_dict(load_negatives(path))
    save, load, commit = (spent[name][0] for name in ("save", "load", "commit"))
    CHECKPOINTS.append(
        f"| {rule} | {path.stat().st_size / 1e6:.1f} | {save:.0f} | {load:.0f} | {events:,} | "
        f"{commit:.0f} |"
    )


CHECKPOINTS: list[str] = []


def report_live(catalog: Catalog, snapshot: Snapshot, pack: Pack, marked: int, work: Path) -> None:
    """Time looks at the lake: nothing new, nothing marked, and lists for all marked queries."""
    live = LiveCandidates(catalog, pack, snapshot, work / "live")
    rows = np.flatnonzero(pack.candidates.index != NONE)[:marked]
    ids = np.asarray(pack.ids("query")[rows])
    run = str(pack.manifest.settings["candidates_run"])
    spent: Spent = defaultdict(list)

    def look(name: str, step: int) -> object:
        with timed(spent, f"{name}: look"):
            live.look(step, lambda: (ids, [run] * len(ids)))
            live.wait()
        with timed(spent, f"{name}: take"):
            return live.take(step + 100)

    for step in range(100, 900, 100):
        look("nothing new", step)
    mine_at_random(catalog, snapshot.digest, ids, seed=SEED + 1)
    update = look(f"{marked:,} new lists", 1000)
    assert update is not None
    live.close()
    for name, values in spent.items():
        print(f"| {name} | {statistics.median(values):.1f} |")


def report_run(
    catalog: Catalog, snapshot: Snapshot, pack: Pack, batch: int, steps: int, work: Path
) -> None:
    """Time a run of the trainer itself: its start on the built pack, and its steps."""
    from trainer.model import ModelSettings
    from trainer.run import RunPlace, Session
    from trainer.settings import ContrastiveTask, TrainSettings
    from trainer.step import train_step

    rows = np.arange(0, pack.num_texts("passage"), max(1, pack.num_texts("passage") // 2000))
    make_model(work / "model", pack.texts("passage", rows))
    settings = TrainSettings(
        ModelSettings(str(work / "model"), max_tokens=MAX_TOKENS), steps=steps,
        retrieval=ContrastiveTask(batch),
        negatives=NegativeSettings.published("v1", NEGATIVES),
    )  # fmt: skip
    place = RunPlace(work / "run", catalog, snapshot, pack_folder=pack.folder)
    spent: Spent = defaultdict(list)
    started = time.perf_counter()
    with timed(spent, "start"):
        session = Session.open(place, settings, lambda line: None)
        update = session.maker.make(0)
    wall_s = time.perf_counter() - started
    assert session.negatives is not None
    mined = update.tasks["retrieval"].is_mined
    print("\n| a run of 6 layers of 384, from the built pack to its first batch | CPU ms |")
    print("|---|---|")
    print(f"| start ({len(pack):,} pairs; {1000 * wall_s:,.0f} ms on the clock) | ", end="")
    print(f"{spent['start'][0]:,.0f} |")
    for step in range(steps):
        update = session.maker.make(step)
        with timed(spent, "step"):
            result = train_step(session.trained, session.engine, update, lr=1e-5)
    assert session.live is not None
    session.live.close()
    print(f"| step of {len(update.texts.lengths):,} texts, {result.tokens:,} tokens, ", end="")
    print(f"{int(mined.sum()):,} mined negatives ({session.settings.precision}; median of ", end="")
    print(f"{steps}) | {statistics.median(spent['step']):,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", help="Parquet files with the columns text1 and text2")
    parser.add_argument("--made-up", type=int, default=500_000, help="pairs to make up instead")
    parser.add_argument("--queries", type=int, default=50_000, help="queries with candidates")
    parser.add_argument("--marked", type=int, default=5_000, help="queries that wait for a list")
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--batch", type=int, default=256, help="queries of a step")
    parser.add_argument("--model-steps", type=int, default=0, help="steps of a real model to time")
    default = Path(tempfile.gettempdir()) / "lode-dynamic-negatives"
    parser.add_argument("--work", type=Path, default=default)
    arguments = parser.parse_args()
    work: Path = arguments.work
    catalog, snapshot = start_catalog(work, arguments.pairs, arguments.made_up)
    with catalog.reader() as reader:
        sql = "select distinct query_id from text_ids where query_id is not null order by 1"
        query_ids = reader.execute(sql).fetchnumpy()["query_id"]
    chosen = query_ids[:: max(1, len(query_ids) // arguments.queries)][: arguments.queries]
    run = mine_at_random(catalog, snapshot.digest, chosen, SEED)
    pack = build_pack(catalog, snapshot, work / "pack", PackSettings(candidates_run=run))
    print(describe(["numpy", "duckdb", "pyarrow"]), "\n")
    print(f"{len(pack):,} pairs, {pack.num_texts('query'):,} queries; ", end="")
    print(f"load of the machine {os.getloadavg()[0]:.1f}\n")
    has_list = pack.candidates.index[pack.pairs().query] != NONE
    mined = np.random.default_rng(SEED).permutation(np.flatnonzero(has_list))
    batch = arguments.batch
    mined = mined[: batch * POOL_STEPS]
    batches = mined[: len(mined) // batch * batch].reshape(-1, batch)
    print(
        "| rule | replaced | choose | observe | check | events | sum | texts | all | worst check |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for rule in RULES:
        report_rule(rule, pack, batches, arguments.steps, work)
    print("\n| rule | state MB | save | load | events | commit |\n|---|---|---|---|---|---|")
    print("\n".join(CHECKPOINTS))
    if arguments.model_steps:
        report_run(catalog, snapshot, pack, batch, arguments.model_steps, work)
    print("\n| the lake, in the background | ms |\n|---|---|")
    report_live(catalog, snapshot, pack, arguments.marked, work)
    shutil.rmtree(work)


RULES: tuple[Rule, ...] = ("static", "v1", "v2")

if __name__ == "__main__":
    main()
