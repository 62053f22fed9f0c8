"""What a report shows, as plain values: gathered from a catalog, drawn by the page."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """A stage of the funnel: rows that came in and rows that went on."""

    name: str
    rows_in: int
    rows_out: int

    @property
    def lost(self) -> int:
        """Count the rows that the stage rejects."""
        return self.rows_in - self.rows_out


@dataclass(frozen=True)
class Reason:
    """A condition of the policy and the pairs that fail it, ``alone`` those that fail no other."""

    name: str
    stage: str
    rule: str
    pairs: int
    alone: int
    scope: str | None = None  # pairs to which the condition applies, in SQL
    source: str | None = None  # where the threshold comes from


@dataclass(frozen=True)
class Combination:
    """Pairs that fail exactly these conditions."""

    reasons: tuple[str, ...]
    pairs: int


@dataclass(frozen=True)
class SourceRow:
    """What became of one source's pairs; a mean is None where its signal was not measured."""

    source: str
    pairs: int
    kept: int
    query_chars: float | None
    passage_chars: float | None
    reasons: tuple[tuple[str, int], ...]  # most frequent first


@dataclass(frozen=True)
class Bar:
    """Pairs with a signal between two values, or of one category: those that pass and that fail."""

    low: float
    high: float
    passed: int
    failed: int
    label: str = ""

    @property
    def pairs(self) -> int:
        """Count the pairs of the bar."""
        return self.passed + self.failed


@dataclass(frozen=True)
class Histogram:
    """The distribution of a signal among the pairs to which a condition applies.

    The first and the last bar also hold what lies beyond them where ``opens_low``/``opens_high``.
    """

    condition: str
    signal: str
    rule: str
    scope: str | None
    bars: tuple[Bar, ...]
    thresholds: tuple[float, ...] = ()
    is_log: bool = False
    is_category: bool = False
    opens_low: bool = False
    opens_high: bool = False
    unmeasured: int = 0

    @property
    def measured(self) -> int:
        """Count the pairs that have a value."""
        return sum(bar.pairs for bar in self.bars)

    @property
    def failed(self) -> int:
        """Count the pairs that fail the condition."""
        return sum(bar.failed for bar in self.bars)


@dataclass(frozen=True)
class ClusterSize:
    """How many duplicate clusters of a kind have a size, and how many pairs they hold."""

    kind: str  # exact | near
    size: int
    clusters: int
    pairs: int


@dataclass(frozen=True)
class Sample:
    """A rejected pair, its texts cut to a readable length."""

    reason: str
    pair_id: int
    source: str
    query: str
    passage: str
    passage_chars: int
    other_reasons: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)  # of the signals that the reason reads


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows."""

    title: str
    policy: str
    facts: tuple[tuple[str, str], ...]  # what identifies the data: snapshot, digest, lake version
    stages: tuple[Stage, ...] = ()
    reasons: tuple[Reason, ...] = ()
    combinations: tuple[Combination, ...] = ()
    sources: tuple[SourceRow, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    clusters: tuple[ClusterSize, ...] = ()
    samples: tuple[Sample, ...] = ()
    quarantined: tuple[tuple[str, int], ...] = ()  # why rows could not be read

    @property
    def pairs(self) -> int:
        """Count the pairs that were read."""
        return self.stages[0].rows_out if self.stages else 0

    @property
    def kept(self) -> int:
        """Count the pairs that the policy keeps."""
        return self.stages[-1].rows_out if self.stages else 0
