"""Runs of training on a tiny catalog, in this process or in ones that can be killed.

Processes are forked from a server that has imported torch; each computes on one thread.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from catalog import duck
from catalog.lake import Catalog
from catalog.pack import Pack, PackSettings, build_pack
from catalog.records import checksum
from catalog.snapshots import create_snapshot, load_snapshot
from tests.mined_catalog import add_run
from tests.model_folders import bge
from tests.pack_catalog import Row, make_catalog, pair
from tests.tiny_catalog import copy_catalog
from trainer.engine import OptimizerSettings
from trainer.model import ModelSettings
from trainer.negative_rules import NegativeSettings
from trainer.run import RunPlace, train
from trainer.settings import ContrastiveTask, CosentTask, TrainSettings

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.train_process", "transformers", "trainer.resume"])
# What the server has done its processes need not: extensions checked, pandas imported by DuckDB.
with duck.connect(extensions=["ducklake", "sqlite_scanner"]) as _connection:
    _connection.execute("select ?", [1])

FILE = 1 << 32
RETRIEVAL, STS, CLASSES, LOOSE = 24, 16, 12, 40
RUN = "mine-1"
RULE = NegativeSettings("v1", num_negatives=3, check_every_steps=2, drop_ratio=0.2, ceiling=2.0)


def make_rows() -> list[Row]:
    """Pairs of three tasks; every third retrieval pair came with negatives."""
    rows = [
        pair(1, n, f"q{n}", f"the answer {n}", negatives=[f"given {n} {k}" for k in range(n % 3)])
        for n in range(RETRIEVAL)
    ]
    rows += [
        pair(2, n, f"left {n}", f"right {n}", source="graded", task="sts", label=float(n % 4))
        for n in range(STS)
    ]
    rows += [
        pair(3, n, f"thing {n}", f"kind {n}", task="classification", label=float(n % 3))
        for n in range(CLASSES)
    ]
    return rows + [pair(4, n, None, f"only a candidate {n}") for n in range(LOOSE)]


def make_lists() -> dict[int, list[tuple[int, float, int]]]:
    """Lists of 30 candidates, the next query's positive among the first that are used.

    Every fifth query was not mined.
    """
    lists = {}
    for query in range(RETRIEVAL):
        passages = [4 * FILE + (query + rank) % LOOSE for rank in range(30)]
        passages[11] = FILE + (query + 1) % RETRIEVAL
        if query % 5:
            lists[FILE + query] = [(p, 1 - rank / 64, 0) for rank, p in enumerate(passages)]
    return lists


@dataclass(frozen=True)
class Made:
    """A folder with a mined catalog, its snapshot v1, and a model."""

    folder: Path

    @property
    def catalog(self) -> Catalog:
        return Catalog.open(str(self.folder / "corpus"))

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def copy(self, folder: Path) -> "Made":
        """Copy the catalog for a test that writes; the model is shared."""
        folder.mkdir(exist_ok=True)
        copy_catalog(self.catalog, folder / "corpus")
        (folder / "model").symlink_to(self.model)
        return Made(folder)

    def place(self, run: str = "a", **more: Any) -> RunPlace:
        catalog = self.catalog
        return RunPlace(self.folder / run, catalog, load_snapshot(catalog, "v1"), **more)

    def pack(self, candidates_run: str | None = RUN) -> Pack:
        place = self.place()
        folder = self.folder / f"pack-{candidates_run}"
        settings = PackSettings(candidates_run=candidates_run)
        return build_pack(place.catalog, place.snapshot, folder, settings)

    def settings(self, **more: Any) -> TrainSettings:
        """Retrieval and STS for eight steps; every third is a checkpoint."""
        given: dict[str, Any] = {
            "model": ModelSettings(str(self.model), query_instruction="find: "),
            "steps": 8,
            "precision": "float32",
            "batch_tokens": 256,
            "checkpoint_every": 3,
            "log_every": 1,
            "optimizer": OptimizerSettings(lr=1e-3),
            "negatives": RULE,
            "retrieval": ContrastiveTask(batch=6, temperature=0.1),
            "sts": CosentTask(batch=4),
        }
        return TrainSettings(**given | more)


def make(folder: Path) -> Made:
    """Make the catalog, the snapshot, the mining run and the model."""
    folder.mkdir(exist_ok=True)
    catalog = make_catalog(folder / "corpus", make_rows())
    add_run(catalog, RUN, create_snapshot(catalog, "v1"), make_lists())
    bge(folder / "model")
    return Made(folder)


def run_here(
    made: Made, settings: TrainSettings, run: str = "a", **place: Any
) -> tuple[Path, list[str]]:
    """Train in this process; return the newest checkpoint and what was said."""
    said: list[str] = []
    return train(made.place(run, **place), settings, said.append), said


# What a run leaves ------------------------------------------------------------------------------

TABLES = {
    "metrics": "select step, metric, value from metrics where run = ? "
    "and metric <> 'tokens_per_second' order by all",
    "train_events": "select * exclude run from train_events where run = ? order by all",
    "runs": "select run_id, kind, status, tasks from runs where run_id = ? order by all",
}


def result_of(made: Made, run: str = "a") -> dict[str, Any]:
    """Return what must not depend on how often a run was killed."""
    folder = made.folder / run
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    trace = [json.loads(line) for line in lines]
    for line in trace:
        del line["tokens_per_second"]
    newest = folder / "checkpoint"
    with made.catalog.reader() as connection:
        tables = {name: connection.execute(sql, [run]).fetchall() for name, sql in TABLES.items()}
    tables["runs"] = [row[1:] for row in tables["runs"]]
    return {
        "trace": trace,
        "newest": newest.resolve().name,
        "checkpoints": sorted(path.name for path in folder.glob("*checkpoint*")),
        "weights": checksum(newest / "model.safetensors"),
        "optimizer": checksum(newest / "training" / "optimizer.safetensors"),
        **tables,
    }


# Processes --------------------------------------------------------------------------------------


class Killer:
    """Kills its process at one of the calls of Lode's functions that the main thread makes."""

    def __init__(self, last_call: int, calls: Any) -> None:
        self.last_call, self.calls = last_call, calls
        self.watched = (str(ROOT / "trainer"), str(ROOT / "catalog"))

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(self.watched):
            self.calls.value += 1
            if self.calls.value == self.last_call:
                os.kill(os.getpid(), signal.SIGKILL)


def train_until(
    made: Made, settings: Any, run: str, last_call: int, calls: Any, train: Any = train
) -> None:
    """Train, and die at a call (0: never)."""
    torch.set_num_threads(1)
    place = made.place(run)
    sys.setprofile(Killer(last_call, calls))
    train(place, settings)
    sys.setprofile(None)


def start(function: Callable[..., None], arguments: Sequence[Any]) -> BaseProcess:
    """Start a function in a process of its own."""
    process = CONTEXT.Process(target=function, args=tuple(arguments), daemon=True)
    process.start()
    return process


def run_group(
    function: Callable[..., None], arguments: Sequence[Any], processes: int = 2
) -> list[int | None]:
    """Run a function in processes that join as under torchrun; return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        started.append(start(_run_with, [environment, function, arguments]))
    for process in started:
        process.join()
    return [process.exitcode for process in started]


def train_in_group(made: Made, settings: TrainSettings, run: str, processes: int = 2) -> None:
    """Train in several processes; all must end well."""
    assert run_group(_train, [made, settings, run], processes) == [0] * processes


def _train(made: Made, settings: TrainSettings, run: str) -> None:
    train(made.place(run), settings)


def _run_with(
    environment: Mapping[str, object], function: Callable[..., None], arguments: Sequence[Any]
) -> None:
    torch.set_num_threads(1)
    os.environ.update({name: str(value) for name, value in environment.items()})
    function(*arguments)
    if dist.is_initialized():
        dist.destroy_process_group()
