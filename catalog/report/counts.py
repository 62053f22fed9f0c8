"""Funnel, reasons, overlaps and sources, out of one count by source and failed conditions."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from catalog.policies import Policy
from catalog.report.data import Combination, Reason, SourceRow, Stage
from catalog.views import READ_STAGE

MAX_COMBINATIONS: Final = 200
SOURCE_REASONS: Final = 2


@dataclass(frozen=True)
class Count:
    """Pairs of a source that fail the same conditions (bits), and their characters in all."""

    source: str
    fails: int
    pairs: int
    query_chars: int | None = None
    passage_chars: int | None = None


def stages_of(policy: Policy, counts: Sequence[Count], quarantined: int) -> tuple[Stage, ...]:
    """Make the funnel: a stage passes what fails none of its conditions and none before them."""
    read = sum(count.pairs for count in counts)
    if not read and not quarantined and not policy.conditions:
        return ()
    stages = [Stage(READ_STAGE, read + quarantined, read)]
    seen = 0
    for name in policy.stages:
        for bit, condition in enumerate(policy.conditions):
            seen |= (condition.stage == name) << bit
        passed = sum(count.pairs for count in counts if not count.fails & seen)
        stages.append(Stage(name, stages[-1].rows_out, passed))
    return tuple(stages)


def reasons_of(policy: Policy, counts: Sequence[Count]) -> tuple[Reason, ...]:
    """Count, for every condition, the pairs that fail it and those that fail it alone."""
    return tuple(
        Reason(
            condition.name,
            condition.stage,
            condition.require or f"unique among {condition.unique} duplicates",
            pairs=sum(count.pairs for count in counts if count.fails >> bit & 1),
            alone=sum(count.pairs for count in counts if count.fails == 1 << bit),
            scope=condition.where,
            source=condition.source,
        )
        for bit, condition in enumerate(policy.conditions)
    )


def combinations_of(policy: Policy, counts: Sequence[Count]) -> tuple[Combination, ...]:
    """List the sets of conditions that fail together, most frequent first; single ones all."""
    pairs: Counter[int] = Counter()
    for count in counts:
        if count.fails:
            pairs[count.fails] += count.pairs
    ordered = sorted(pairs, key=lambda fails: (-pairs[fails], fails))
    chosen = ordered[:MAX_COMBINATIONS]
    chosen += [fails for fails in ordered[MAX_COMBINATIONS:] if fails.bit_count() == 1]
    return tuple(Combination(_names(policy, fails), pairs[fails]) for fails in chosen)


def sources_of(policy: Policy, counts: Sequence[Count]) -> tuple[SourceRow, ...]:
    """Sum up what became of every source, largest first."""
    by_source: dict[str, list[Count]] = {}
    for count in counts:
        by_source.setdefault(count.source, []).append(count)
    rows = [_source_row(policy, source, own) for source, own in by_source.items()]
    return tuple(sorted(rows, key=lambda row: (-row.pairs, row.source)))


def _source_row(policy: Policy, source: str, counts: Sequence[Count]) -> SourceRow:
    pairs = sum(count.pairs for count in counts)
    failed = [(reason.name, reason.pairs) for reason in reasons_of(policy, counts) if reason.pairs]
    failed.sort(key=lambda reason: (-reason[1], reason[0]))
    lengths = [_sum(count.query_chars for count in counts), _sum(c.passage_chars for c in counts)]
    query_chars, passage_chars = (None if one is None else one / pairs for one in lengths)
    kept = sum(count.pairs for count in counts if not count.fails)
    return SourceRow(
        source, pairs, kept, query_chars, passage_chars, tuple(failed[:SOURCE_REASONS])
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _names(policy: Policy, fails: int) -> tuple[str, ...]:
    return tuple(one.name for bit, one in enumerate(policy.conditions) if fails >> bit & 1)
