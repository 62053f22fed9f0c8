"""How a search runs: its settings, and the sizes that keep it inside its memory."""

import os
from dataclasses import dataclass, field
from typing import Final

import torch

from mining import topk
from mining.bfloat16 import cpu_computes_bfloat16
from mining.survivors import MAX_TILE_SCORES, TILE_PASSAGES, Tiles, Workspace
from mining.vectors import Vectors

MAX_TILE_QUERIES: Final = 4096
MIN_MEMORY_MB: Final = 1


def fastest_product() -> str:
    """Name the precision that this machine multiplies fastest."""
    if torch.cuda.is_available():
        return "bf16"
    return "bf16" if cpu_computes_bfloat16() else "fp32"


def default_device() -> str:
    """Name the GPU where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class SearchSettings:
    """How the search runs; none of it changes what is found.

    ``memory_mb`` bounds the search's own buffers; what it returns comes on top.
    """

    memory_mb: int = 1024
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    product: str = field(default_factory=fastest_product)
    device: str = field(default_factory=default_device)

    def __post_init__(self) -> None:
        if self.memory_mb < MIN_MEMORY_MB:
            raise ValueError(f"memory_mb is {self.memory_mb}; it must be at least {MIN_MEMORY_MB}")
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}; it must be at least 1")
        if self.product not in ("bf16", "fp32"):
            raise ValueError(f"product is {self.product!r}; allowed are 'bf16' and 'fp32'")
        if torch.device(self.device).type not in ("cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}; allowed are 'cpu', 'cuda' and 'cuda:N'")
        if torch.device(self.device).type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device is {self.device!r}, but torch finds no GPU; use 'cpu'")


@dataclass(frozen=True)
class Plan:
    """Sizes that keep the search inside its memory."""

    query_rows: int
    block_rows: int
    tiles: Tiles
    device: str

    def workspace(self, width: int) -> Workspace:
        """Allocate what a search on CPU works in; memory that is never used is never taken."""
        return Workspace(self.tiles, self.query_rows, self.block_rows, width)


def make_plan(queries: Vectors, passages: Vectors, k: int, settings: SearchSettings) -> Plan:
    """Choose sizes within the memory that settings allow; raise ValueError where none are."""
    product = torch.bfloat16 if settings.product == "bf16" else torch.float32
    on_cpu = settings.device == "cpu"
    memory = settings.memory_mb << 20
    # Just compacted, a buffer holds little more than k; at five times k that is rare.
    capacity = -(-max(5 * k, 256) // topk.CHUNK) * topk.CHUNK
    entry_bytes = product.itemsize + 8 if on_cpu else 2 * (product.itemsize + 8)
    passage_bytes = passages.width * (2 * passages.itemsize + 4)
    query_bytes = passages.width * (8 + product.itemsize) + capacity * entry_bytes + 24 * k
    least = max(8 * passage_bytes, 2 * query_bytes)
    if memory < least:
        needed = -(-least >> 20)
        raise ValueError(f"memory_mb is {settings.memory_mb}; k={k} needs at least {needed}")
    # Most of it is for queries: all passages are read, and rounded, once for each block of them.
    query_rows = _even_share(len(queries), memory * 3 // 4 // query_bytes)
    block_rows = min(max(len(passages), 1), memory // 8 // passage_bytes)
    threads = settings.threads if on_cpu else 1
    # A GPU's scores have a mask beside them.
    tile_scores = memory // 8 // (product.itemsize * (threads if on_cpu else 2))
    tile_rows = min(
        -(-query_rows // threads),
        MAX_TILE_QUERIES,
        max(1, tile_scores // TILE_PASSAGES),
    )
    tiles = Tiles(tile_rows, capacity, product, min(tile_scores, MAX_TILE_SCORES))
    return Plan(query_rows, block_rows, tiles, settings.device)


def _even_share(total: int, most: int) -> int:
    """Cut a total into as few equal parts of at most ``most`` as possible; return their size."""
    parts = max(1, -(-total // most))
    return max(1, -(-total // parts))
