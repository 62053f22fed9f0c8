"""The processes of a run: joining them, what they tell each other, and the device of each."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from mining.bfloat16 import cpu_computes_bfloat16
from trainer.collectives import Group

Value = TypeVar("Value")


@contextmanager
def joined(engine: str) -> Iterator[None]:
    """Join the processes that torchrun or DeepSpeed started; leave them at the end.

    DeepSpeed wants a group even where there is one process.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1")) > 1 or engine == "deepspeed"
    if not wanted or dist.is_initialized():
        yield
        return
    for name, value in (
        ("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"),
        ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "0"),
    ):  # fmt: skip
        os.environ.setdefault(name, value)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return this process's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Count the processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def device() -> torch.device:
    """Return the device that this process trains on."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def choose_precision(precision: str) -> str:
    """Decide what ``fastest`` is: bfloat16 where the machine computes with it."""
    if precision != "fastest":
        return precision
    if torch.cuda.is_available():
        return "bfloat16"
    return "bfloat16" if cpu_computes_bfloat16() else "float32"


def task_groups(spans: Mapping[str, range]) -> dict[str, Group]:
    """Make the group of each task's processes; every process calls this in the same order."""
    if count() == 1:
        return dict.fromkeys(spans)
    return {name: dist.new_group(list(span)) for name, span in spans.items()}


def gather_bytes(payload: bytes) -> Sequence[bytes]:
    """Give bytes to all processes; return those of every process in order."""
    if count() == 1:
        return [payload]
    found: list[bytes | None] = [None] * count()
    dist.all_gather_object(found, payload)
    return [part for part in found if part is not None]


def from_first(value: Value) -> Value:
    """Return what the first process has."""
    if count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def totals(numbers: Sequence[float]) -> list[float]:
    """Add up each of some numbers over the processes."""
    if count() == 1 or not numbers:
        return list(numbers)
    box = torch.tensor(numbers, dtype=torch.float64, device=device())
    dist.all_reduce(box)
    return [float(number) for number in box]
