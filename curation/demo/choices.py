"""Random choices that are hashes of (seed, purpose, row, name): no generator, no state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import xxhash

Item = TypeVar("Item")

HASH_RANGE = 2**64


@dataclass(frozen=True)
class Choices:
    """The choices of one row for one purpose; each has a name, equal names give equal choices."""

    key: str

    @classmethod
    def of(cls, seed: int, purpose: str, *ids: int | str) -> "Choices":
        """Name the choices by what they are for."""
        return cls("/".join(map(str, (seed, purpose, *ids))) + "/")

    def below(self, limit: int, name: str) -> int:
        """Return an integer in [0, limit)."""
        return xxhash.xxh3_64_intdigest(self.key + name) % limit

    def between(self, low: int, high: int, name: str) -> int:
        """Return an integer in [low, high]."""
        return low + self.below(high - low + 1, name)

    def share(self, name: str) -> float:
        """Return a number in [0, 1)."""
        return xxhash.xxh3_64_intdigest(self.key + name) / HASH_RANGE

    def pick(self, items: Sequence[Item], name: str) -> Item:
        """Return one of the items."""
        return items[self.below(len(items), name)]

    def order(self, count: int, name: str) -> list[int]:
        """Return the numbers 0 to count - 1 in a random order."""
        return sorted(range(count), key=lambda i: (self.share(f"{name}.{i}"), i))
