"""Titles that say what is seen, not what is drawn."""

from typing import Final

from catalog.report.data import Histogram, MiningData, ReportData
from catalog.report.numbers import count, plural, share
from catalog.report.svg import cut

MAX_NAME_CELLS: Final = 40


def headline(data: ReportData) -> str:
    """Say how many pairs are kept."""
    if not data.pairs:
        return "The catalog holds no pairs yet"
    if data.kept == data.pairs:
        return f"All {plural(data.pairs, 'pair')} are kept"
    return f"{count(data.kept)} of {plural(data.pairs, 'pair')} are kept: {_of_pairs(data)}"


def funnel(data: ReportData) -> str:
    """Say at which stage most rows are lost."""
    lossy = max(data.stages, key=lambda stage: stage.lost, default=None)
    if lossy is None:
        return "Nothing was read"
    if not lossy.lost:
        return "No stage rejects anything"
    return (
        f"Most is lost at {lossy.name}: {plural(lossy.lost, 'row')}, "
        f"{share(lossy.lost, lossy.rows_in)} of what reaches it"
    )


def reasons(data: ReportData) -> str:
    """Say which condition most pairs fail, and how many fail nothing else."""
    failed = [reason for reason in data.reasons if reason.pairs]
    if not failed:
        return "No condition rejects a pair"
    most = max(failed, key=lambda reason: reason.pairs)
    alone = f"{count(most.alone)} of them fail nothing else"
    if most.alone in (0, most.pairs):
        alone = f"{'all' if most.alone else 'none'} of them fail nothing else"
    return f"{most.name} rejects the most: {plural(most.pairs, 'pair')}; {alone}"


def overlaps(data: ReportData) -> str:
    """Say how many rejected pairs fail one condition only."""
    rejected = data.pairs - data.kept
    if not rejected:
        return "No two conditions fail together"
    alone = sum(one.pairs for one in data.combinations if len(one.reasons) == 1)
    return f"{share(alone, rejected)} of the rejected pairs fail one condition only"


def sources(data: ReportData) -> str:
    """Say which source loses most of its pairs."""
    if len(data.sources) < 2:
        return plural(len(data.sources), "source")
    least = min(data.sources, key=lambda one: (one.kept / max(one.pairs, 1), one.source))
    best = max(data.sources, key=lambda one: (one.kept / max(one.pairs, 1), one.source))
    shares = [share(one.kept, one.pairs) for one in (best, least)]
    known = plural(len(data.sources), "source")
    if shares[0] == shares[1]:
        return f"{known}, {shares[0]} of each is kept"
    names = [cut(one.source, MAX_NAME_CELLS) for one in (best, least)]
    return f"{known}: {shares[0]} of {names[0]} is kept, {shares[1]} of {names[1]}"


def histogram(drawn: Histogram) -> str:
    """Say how many pairs fail, of those that the condition applies to."""
    whole = drawn.measured + drawn.unmeasured
    if not drawn.failed:
        return f"none of {plural(whole, 'pair')} fails"
    verb = "fails" if drawn.failed == 1 else "fail"
    return (
        f"{count(drawn.failed)} {verb}; {share(whole - drawn.failed, whole)} of "
        f"{plural(whole, 'pair')} pass"
    )


def clusters(data: ReportData) -> str:
    """Say how many clusters there are and how large the largest is."""
    if not data.clusters:
        return "No duplicates were found"
    parts = []
    for kind in ("exact", "near"):
        sizes = [one for one in data.clusters if one.kind == kind]
        if sizes:
            total = sum(one.clusters for one in sizes)
            largest = max(one.size for one in sizes)
            clustered = plural(total, f"{kind}-duplicate cluster")
            parts.append(f"{clustered}, the largest of {count(largest)}")
    return "; ".join(parts)


def mining(data: MiningData) -> str:
    """Say how many candidates are left, and for how many queries none is."""
    if not data.candidates:
        return f"Nothing was found for {_queries(data.queries)}"
    a_query = f"{data.kept / data.queries:.1f}".removesuffix(".0")
    kept = f"{count(data.kept)} of {plural(data.candidates, 'candidate')} are kept"
    return f"{kept}, {a_query} a query"


def removals(data: MiningData) -> str:
    """Say which reason removes the most candidates."""
    most = max(data.removals, key=lambda one: one.candidates, default=None)
    if most is None or not most.candidates:
        return "No candidate was removed"
    part = share(most.candidates, data.measured_candidates)
    return f"{most.name} removes the most: {part} of all candidates"


def measured(data: MiningData) -> str:
    """Say which queries pictures and reasons were measured on."""
    if data.measured_queries == data.queries:
        return f"Measured on all {_queries(data.queries)}."
    return (
        f"Pictures and reasons are measured on {count(data.measured_queries)} of "
        f"{_queries(data.queries)}, chosen by a hash of their ids; the title counts all."
    )


def _queries(number: int) -> str:
    return plural(number, "query", "queries")


def _of_pairs(data: ReportData) -> str:
    return share(data.kept, data.pairs)
