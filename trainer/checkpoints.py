"""Checkpoints: a model folder that others load, and beside it all that a run needs to go on.

    <run>/checkpoint-00000500/                a sentence-transformers folder
                              training/       optimizer, negatives, and where the run is
    <run>/checkpoint                          link to the newest

One is written aside and renamed when it is whole; a killed run goes on from the newest.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from catalog.errors import CatalogError
from catalog.records import sync_file, sync_folder, write_json, writing
from trainer.engine import Engine, is_first_process
from trainer.negatives import DynamicNegatives, load_negatives, save_negatives
from trainer.processes import count as count_all

LINK: Final = "checkpoint"
TRAINING: Final = "training"
_STATE: Final = "state.json"
_NEGATIVES: Final = "negatives.bin"
_LOSSES: Final = "losses.safetensors"


class Savable(Protocol):
    """What is trained: a model, and losses with weights of their own, if they have any."""

    @property
    def losses(self) -> nn.Module:
        """The losses; what they have learned is kept beside the model."""

    def save_model(self, folder: Path, card: str) -> None:
        """Write the model with its card as a folder that others load."""


ProcessCounts = tuple[tuple[int, int], ...]
"""Steps that were done when a life began with another number of processes, and that number."""


@dataclass(frozen=True)
class Progress:
    """Where a run is: steps that are done, and what it must not be resumed without."""

    step: int
    pack_key: str
    processes: ProcessCounts


def note_processes(counts: ProcessCounts, since: int, processes: int) -> ProcessCounts:
    """Add a number of processes to those that a run has had, where it is another one."""
    if counts and counts[-1][1] == processes:
        return counts
    return (*counts, (since, processes))


def save_checkpoint(
    run: Path,
    progress: Progress,
    trained: Savable,
    engine: Engine,
    negatives: DynamicNegatives | None,
    card: str,
) -> Path:
    """Write a checkpoint; every process calls it, and it is there when all return."""
    path = run / f"{LINK}-{progress.step:08d}"
    aside = run / f".{path.name}.tmp"
    saved = negatives.state_dict(progress.step) if negatives is not None else None
    with _writing_model(run):
        if is_first_process():
            shutil.rmtree(aside, ignore_errors=True)
            trained.save_model(aside, card)
            (aside / TRAINING).mkdir()
            save_file(trained.losses.state_dict(), aside / TRAINING / _LOSSES)
        _wait()
        engine.save(aside / TRAINING)
        _wait()
        if is_first_process():
            if saved is not None:
                save_negatives(aside / TRAINING / _NEGATIVES, saved)
            write_json(aside / TRAINING / _STATE, asdict(progress))
            _sync_tree(aside)
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
            sync_folder(run)
        _wait()
    return path


def load_checkpoint(
    path: Path,
    trained: Savable,
    engine: Engine,
    negatives: DynamicNegatives | None,
    pack_key: str,
) -> Progress:
    """Take up optimizer, temperatures and negatives; the model was loaded from the same folder."""
    progress = read_progress(path)
    if progress.pack_key != pack_key:
        raise CatalogError(
            f"{path} was trained on the pack {progress.pack_key}, this is {pack_key}: the snapshot "
            "or the candidates are others; resume with the pack that the run began with"
        )
    if engine.is_split and progress.processes[-1][1] != count_all():
        raise CatalogError(
            f"{path} holds DeepSpeed's state of {progress.processes[-1][1]} processes, and "
            f"{count_all()} run: start as many as before; only plain torch goes on with others"
        )
    trained.losses.load_state_dict(load_file(path / TRAINING / _LOSSES))
    engine.load(path / TRAINING)
    if negatives is not None:
        negatives.load_state_dict(load_negatives(path / TRAINING / _NEGATIVES))
    return progress


def read_progress(path: Path) -> Progress:
    """Return where a checkpoint is."""
    try:
        content: dict[str, Any] = json.loads((path / TRAINING / _STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CatalogError(
            f"{path} is a model without the state of its training; it can be a base, not resumed"
        ) from None
    counts = tuple((since, count) for since, count in content.pop("processes"))
    return Progress(**content, processes=counts)


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest whole checkpoint of a run."""
    found = sorted(run.glob(f"{LINK}-*"))
    return found[-1] if found else None


def tidy_checkpoints(run: Path, keep: int) -> None:
    """Point to the newest checkpoint, and remove old ones and what killed lives left aside."""
    whole = sorted(run.glob(f"{LINK}-*"))
    if whole:
        _point(run, whole[-1])
    for left in [*whole[:-keep], *run.glob(f".{LINK}*.tmp")]:
        left.unlink() if left.is_symlink() else shutil.rmtree(left)


@contextlib.contextmanager
def _writing_model(run: Path) -> Iterator[None]:
    """As ``writing``, also for what safetensors says of a full disk: its error is no OSError."""
    with writing(run):
        try:
            yield
        except SafetensorError as error:
            found = re.search(r"\(os error (\d+)\)", str(error))
            if found is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def _sync_tree(folder: Path) -> None:
    """Wait until all files below a folder are on the disk: it is renamed after that only."""
    for path in folder.rglob("*"):
        (sync_folder if path.is_dir() else sync_file)(path)
    sync_folder(folder)


def _point(run: Path, path: Path) -> None:
    link = run / f".{LINK}.{os.getpid()}.tmp"
    with writing(run):
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        link.rename(run / LINK)
        sync_folder(run)


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()
