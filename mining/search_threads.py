"""The threads of a search on CPU."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class Threads:
    """Threads that each multiply alone: nobody waits, and a tile stays in its core's cache."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> "Threads":
        self.default_threads = torch.get_num_threads()
        self.default_precision = torch.get_float32_matmul_precision()
        # A lower one lets float32 products be made of bfloat16: the margins would not hold.
        torch.set_float32_matmul_precision("highest")
        self.pool = ThreadPoolExecutor(
            self.threads, initializer=torch.set_num_threads, initargs=(1,)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        # A thread's own setting is also what torch gives to threads that come later.
        torch.set_num_threads(self.default_threads)
        torch.set_float32_matmul_precision(self.default_precision)

    def map(self, function: Callable[[slice], T], total: int, size: int) -> list[T]:
        """Call the function for slices of a range, and wait for all of them."""
        slices = [slice(low, min(low + size, total)) for low in range(0, total, size)]
        return list(self.pool.map(function, slices))
