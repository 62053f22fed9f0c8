"""What decides which texts count as duplicates, and what finding them may cost."""

from dataclasses import dataclass
from typing import Final, Literal

from curation.minhash import MinHashSettings

# What is compared: the passage, or query, line end and passage.
ComparedText = Literal["passage", "pair"]
COMPARED_TEXTS: Final = ("passage", "pair")
# With less the fixed arrays of one step leave no room for texts.
MIN_MEMORY_MB: Final = 64


@dataclass(frozen=True)
class DuplicateSettings:
    """How near-duplicates are found; flat, so that a recipe's section is it."""

    text: ComparedText = "passage"
    threshold: float = 0.8  # texts at least this similar are in one cluster
    edge_floor: float = 0.7  # pairs below are forgotten; above, the threshold is a matter of SQL
    memory_mb: int = 2000  # arrays of all workers together; each also needs 200 MB for libraries
    template_min_size: int = 1000  # a cluster of so many texts is a template, not an edited text
    ngram_chars: int = 5
    bands: int = 14
    rows_per_band: int = 8
    seed: int = 1
    # The first members of a bucket are compared with each other, every later one with its first
    # `leaders` and with the `recent` before it: the work grows with the members, not their square.
    all_pairs_max: int = 512
    leaders: int = 32
    recent: int = 32
    # A text is also compared with as many neighbors of as many of its neighbors: on a corpus with
    # many templates this finds 98 to 99 % of the pairs above 0.8, band keys alone 95 to 97 %.
    neighbors: int = 16

    def __post_init__(self) -> None:
        if self.text not in COMPARED_TEXTS:
            raise ValueError(f"text is {self.text!r}; allowed are {', '.join(COMPARED_TEXTS)}")
        if not 0 < self.edge_floor <= self.threshold <= 1:
            raise ValueError(
                f"edge_floor is {self.edge_floor} and threshold is {self.threshold}; they must be "
                "0 < edge_floor <= threshold <= 1: clusters are made of the edges that were kept"
            )
        if self.memory_mb < MIN_MEMORY_MB:
            raise ValueError(f"memory_mb is {self.memory_mb}; at least {MIN_MEMORY_MB} are needed")
        for name, least in (("template_min_size", 2), ("all_pairs_max", 2), ("leaders", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("recent", "neighbors"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.leaders + self.recent > self.all_pairs_max:
            raise ValueError(
                f"leaders + recent is {self.leaders + self.recent}, more than all_pairs_max "
                f"({self.all_pairs_max}): raise all_pairs_max"
            )
        _ = self.minhash  # checks the rest

    @property
    def minhash(self) -> MinHashSettings:
        """The settings of the band keys."""
        return MinHashSettings(self.ngram_chars, self.bands, self.rows_per_band, self.seed)
