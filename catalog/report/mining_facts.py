"""How a mining run was made, in words: its settings, and the rule behind each reason."""

from typing import Any, Final

from catalog.candidates import Reason
from catalog.mining_runs import MiningRun
from catalog.report.numbers import count

_KNOWN_RULES: Final = {
    Reason.POSITIVE: "the passage of a pair with this query",
    Reason.SAME_TEXT: "the query's own text",
    Reason.NEAR_DUPLICATE: "in the near-duplicate cluster of a positive",
}


def facts_of(run: MiningRun) -> tuple[tuple[str, str], ...]:
    """Say what identifies a run and decides its result."""
    settings = run.settings
    facts = {
        "run": run.run_id,
        "snapshot": f"{run.snapshot} (lake version {settings['lake_version']})",
        **_model(settings["embeddings"]),
        "search": " + ".join(settings["miners"]),
    }
    recall = settings["found"]["recall"]
    if recall is not None:
        facts["recall of the index"] = f"{recall:.4f}"
    facts |= {
        "depth": count(settings["depth"]),
        "margins": _margins(settings["filters"]),
        "passages": count(settings["found"]["passages"]),
        "task": ", ".join(settings["tasks"]),
        "mined": f"{run.finished_at:%Y-%m-%d %H:%M} UTC",
    }
    return tuple(facts.items())


def rule_of(reason: Reason, run: MiningRun) -> str | None:
    """Say when a reason holds in a run; None where the run did not ask."""
    if reason in _KNOWN_RULES:
        return _KNOWN_RULES[reason]
    filters, relevance = run.settings["filters"], run.settings["relevance"]
    if reason == Reason.CROSS_ENCODER:
        return relevance and (
            f"{relevance['model']} says {relevance['min_score']} or more "
            f"(the first {relevance['ranks']} that are left)"
        )
    setting = filters[str(reason.name).lower()]
    if setting is None:
        return None
    return {
        Reason.RELATIVE_MARGIN: f"s ≥ s⁺ − |s⁺| · (1 − {setting})",
        Reason.ABSOLUTE_MARGIN: f"s ≥ s⁺ − {setting}",
        Reason.MAX_SCORE: f"s > {setting}",
    }[reason]


def _margins(filters: dict[str, float | None]) -> str:
    used = {name: value for name, value in sorted(filters.items()) if value is not None}
    words = (f"{name.removesuffix('_margin').replace('_', ' ')} {used[name]}" for name in used)
    return ", ".join(words) or "none"


def _model(embeddings: dict[str, dict[str, Any]]) -> dict[str, str]:
    query, passage = embeddings["query"], embeddings["passage"]
    facts = {"model": f"{passage['model']}, revision {passage['revision']}"}
    for side, spec in (("query", query), ("passage", passage)):
        if spec["instruction"]:
            facts[f"{side} instruction"] = spec["instruction"]
    return facts
