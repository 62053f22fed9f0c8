"""What a report shows, as plain values: gathered from a catalog, drawn by the page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from catalog.candidates import CandidateList

POSITIVES: Final = "positives"  # the group of scores that the others are compared with
QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)


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
    is_of_candidates: bool = False  # bars count candidates of a mining run, not pairs

    @property
    def noun(self) -> str:
        """Name what is counted."""
        return "candidate" if self.is_of_candidates else "pair"

    @property
    def outcome(self) -> str:
        """Say what those do that do not pass."""
        return "removed" if self.is_of_candidates else "fail"

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
class ScoreGroup:
    """How the scores of one kind of passage are distributed, in bins from the lowest score."""

    name: str
    noun: str  # what is counted
    counts: tuple[int, ...]
    median: float

    @property
    def total(self) -> int:
        """Count all of the group."""
        return sum(self.counts)


@dataclass(frozen=True)
class RankRow:
    """Candidates at neighboring ranks: quantiles of their scores, and what became of them."""

    first: int
    last: int
    quantiles: tuple[float, ...]  # at QUANTILES
    kept: int
    removed: int  # for their score
    known: int  # removed because they are known to answer the query

    @property
    def candidates(self) -> int:
        """Count the candidates at these ranks."""
        return self.kept + self.removed + self.known


@dataclass(frozen=True)
class Removal:
    """A reason against candidates, and the candidates that it holds for."""

    name: str
    rule: str
    candidates: int
    alone: int


@dataclass(frozen=True)
class MiningData:
    """What a mining run found; pictures and reasons are of the measured queries."""

    run: str
    facts: tuple[tuple[str, str], ...]
    queries: int
    candidates: int
    kept: int
    without_negative: int  # queries of which every candidate was removed
    measured_queries: int
    low: float = 0.0
    high: float = 1.0
    groups: tuple[ScoreGroup, ...] = ()
    ranks: tuple[RankRow, ...] = ()
    removals: tuple[Removal, ...] = ()
    closeness: Histogram | None = None
    lists: tuple[CandidateList, ...] = ()

    @property
    def measured_candidates(self) -> int:
        """Count the candidates of the measured queries."""
        return sum(row.candidates for row in self.ranks)

    @property
    def positive_median(self) -> float | None:
        """Return the median of the queries' lowest positive scores."""
        return next((one.median for one in self.groups if one.name == POSITIVES), None)


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
    mining: MiningData | None = None

    @property
    def pairs(self) -> int:
        """Count the pairs that were read."""
        return self.stages[0].rows_out if self.stages else 0

    @property
    def kept(self) -> int:
        """Count the pairs that the policy keeps."""
        return self.stages[-1].rows_out if self.stages else 0
