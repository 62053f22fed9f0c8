"""How fast are batches planned and read, and how soon after the start?

python -m benchmarks.batches                                  # 500,000 pairs made up here
python -m benchmarks.batches --pairs 'data/pairs/*.parquet'   # columns text1 and text2
python -m benchmarks.batches --pack /disk/packs/v1            # a pack that is there
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
from datasets import Dataset
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

from benchmarks.machine import describe, run_measured
from benchmarks.pack import drop_from_memory, start_catalog
from catalog.pack import Pack, build_pack
from trainer.batches import Plan, PlanSettings, TaskBatches
from trainer.conflicts import identify
from trainer.mixture import Mixture
from trainer.permutation import Nearness, Permutation, Shuffles

SEED = 7
ROWS = 750_000_000
# Wall-clock and processor seconds of each stage of a process that does nothing else.
FIRST_BATCH = """
import sys, time
moments = [(time.perf_counter(), time.process_time())]
def stage_ends():
    moments.append((time.perf_counter(), time.process_time()))
from catalog.pack import Pack
from trainer.batches import Plan, PlanSettings, TaskBatches
stage_ends()
pack = Pack.open(sys.argv[1])
stage_ends()
plan = Plan(pack, PlanSettings(7, {"retrieval": TaskBatches(256)}))
stage_ends()
rows = plan.rows(0, 0)["retrieval"]
pairs = pack.pairs()
pack.texts("query", pairs.query[rows])
pack.texts("passage", pairs.passage[rows])
stage_ends()
spent = [f"{b[0] - a[0]:.2f} ({b[1] - a[1]:.2f})" for a, b in zip(moments, moments[1:])]
print("| " + " | ".join(spent) + " |", file=sys.stderr)
"""


def plan_of(pack: Pack, batch_size: int, **settings: object) -> Plan:
    task = TaskBatches(batch_size=batch_size, **settings)
    return Plan(pack, PlanSettings(SEED, {"retrieval": task}))


def texts_of_step(pack: Pack, plan: Plan, step: int) -> int:
    rows = plan.rows(step, 0)["retrieval"]
    pairs = pack.pairs()
    pack.texts("query", pairs.query[rows])
    pack.texts("passage", pairs.passage[rows])
    return len(rows)


def rates(work: Callable[[int], int], steps: int) -> str:
    """Time work of several steps in groups of eight: pairs per core-second, min, median, max."""
    work(10**6)
    found = []
    for first in range(0, steps, 8):
        ticked = time.process_time()
        done = sum(work(step) for step in range(first, first + 8))
        found.append(done / (time.process_time() - ticked))
    return f"{min(found):,.0f} | {statistics.median(found):,.0f} | {max(found):,.0f}"


def report_arithmetic() -> None:
    """Time what a plan computes where the rows are not there: 750 million of them."""
    ids = np.arange(4096)
    one = Permutation(ROWS, SEED, "benchmark")
    weights = [ROWS // 40 * (1 + n % 3) for n in range(20)]
    names = [str(n) for n in range(20)]
    mixture = Mixture(weights)
    whole, near = (Shuffles(weights, names, SEED, n) for n in (None, Nearness()))
    print(f"\n| 4,096 of {ROWS:,} rows | ms: min | median | max |\n|---|---|---|---|")
    for name, work in {
        "permutation": lambda first: one.forward(ids + first),
        "mixture of 20 sources": lambda first: mixture.split(ids + first),
        "mixture and shuffles": lambda first: whole.rows(*mixture.split(ids + first)),
        "mixture and near shuffles": lambda first: near.rows(*mixture.split(ids + first)),
    }.items():
        work(0)
        spent = []
        for first in range(0, 100 * 4096, 4096):
            ticked = time.process_time()
            work(first)
            spent.append(1000 * (time.process_time() - ticked))
        print(f"| {name} | {min(spent):.2f} | {statistics.median(spent):.2f} | {max(spent):.2f} |")


def conflicts_per_million(pack: Pack, plan: Plan, steps: int) -> float:
    """Count the rows whose query or passage cluster is in their batch already."""
    conflicts = rows = 0
    for step in range(steps):
        batch = plan.batch(step)["retrieval"]
        found = identify(pack, batch)
        first_query, first_cluster = (
            np.isin(np.arange(len(batch)), np.unique(identity, return_index=True)[1])
            for identity in (found.query, found.cluster)
        )
        conflicts += int(np.count_nonzero(~(first_query & first_cluster)))
        rows += len(batch)
    return 1e6 * conflicts / rows


def report_plans(pack: Pack, steps: int) -> None:
    print("\n| planned pairs | per core-second: min | median | max | conflicts a million |")
    print("|---|---|---|---|---|")
    for batch_size in (256, 4096):
        for avoid in ("nothing", "repeats", "groups"):
            plan = plan_of(pack, batch_size, avoid=avoid)
            found = rates(lambda step, plan=plan: len(plan.rows(step, 0)["retrieval"]), steps)
            conflicts = conflicts_per_million(pack, plan, steps)
            print(f"| batches of {batch_size:,}, avoid {avoid} | {found} | {conflicts:,.0f} |")
    for batch_size in (256, 4096):
        plan = plan_of(pack, batch_size)
        found = rates(lambda step, plan=plan: texts_of_step(pack, plan, step), steps)
        print(f"| batches of {batch_size:,}, avoid groups, with both texts | {found} | |")


def report_peer(pack: Pack, batches: int) -> None:
    """Time the sampler of sentence-transformers that keeps equal texts out of a batch."""
    rows = np.arange(len(pack))
    pairs = pack.pairs()
    columns = {
        "query": pack.texts("query", pairs.query[rows]),
        "passage": pack.texts("passage", pairs.passage[rows]),
    }
    data = Dataset.from_dict(columns)
    del columns
    ticked = time.process_time()
    sampler = NoDuplicatesBatchSampler(
        data, batch_size=256, drop_last=True, valid_label_columns=[], seed=SEED
    )
    first = iter(sampler)
    next(first)
    started = time.process_time() - ticked
    ticked = time.process_time()
    count = sum(len(batch) for batch in islice(first, batches))
    rate = count / (time.process_time() - ticked)
    print(f"\nsentence-transformers, no duplicates: first batch after {started:.2f} CPU-s, then ")
    print(f"{rate:,.0f} pairs per core-second, without texts")


def report_start(folder: Path) -> None:
    """Start a new process, with the pack's files in memory and not."""
    heads = (
        "| clock (processor) s | imports | opening the pack | plan | first batch and its texts |"
    )
    print(f"\n{heads}\n|---|---|---|---|---|", flush=True)
    for state in ("cold", "warm"):
        if state == "cold":
            drop_from_memory(folder)
        print(f"| {state} ", end="", file=sys.stderr, flush=True)
        run_measured([sys.executable, "-c", FIRST_BATCH, str(folder)])


def make_pack(arguments: argparse.Namespace) -> Path:
    if arguments.pack:
        return Path(arguments.pack)
    work: Path = arguments.work
    catalog, snapshot = start_catalog(work, arguments.pairs, arguments.made_up)
    build_pack(catalog, snapshot, work / "pack")
    return work / "pack"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", help="Parquet files with the columns text1 and text2")
    parser.add_argument("--pack", help="a pack that was built before")
    parser.add_argument("--made-up", type=int, default=500_000, help="pairs to make up instead")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lode-batches")
    arguments = parser.parse_args()
    folder = make_pack(arguments)
    pack = Pack.open(folder)
    print(describe(["numpy", "numba", "sentence-transformers", "torch"]))
    print(f"{len(pack):,} pairs; load of the machine {os.getloadavg()[0]:.1f}")
    report_arithmetic()
    report_plans(pack, arguments.steps)
    report_peer(pack, 40)
    del pack
    report_start(folder)


if __name__ == "__main__":
    main()
