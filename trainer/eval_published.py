"""Which published mteb task a set of pairs is: found by what mteb records of every dataset.

mteb ships counts of each published split. A set with the same number of pairs, of different texts
on each side and of different pairs, and with the same mean score, is taken for that split, so that
its result carries the task's own name and can be submitted. Copies that lost spaces at the ends of
sentences (C-MTEB's BQ and PAWSX are 0.002 % and 0.02 % shorter in some) are still the same set.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from trainer.eval_sets import PairSet

MTEB_TYPES: Final = {"sts": "STS", "pair-classification": "PairClassification"}
# Share of the characters that a copy may lack.
LENGTH_TOLERANCE: Final = 0.001
SCORE_TOLERANCE: Final = 1e-6


class Published(NamedTuple):
    """A split of a task that mteb knows."""

    task: Any  # an instance of mteb's own class, no data loaded
    split: str


class Fingerprint(NamedTuple):
    """Counts of a set: pairs, texts that differ on each side, pairs that differ, mean, length."""

    pairs: int
    firsts: int
    seconds: int
    different_pairs: int
    mean: float
    characters: int

    def is_like(self, other: "Fingerprint") -> bool:
        """Say whether both are counts of the same set."""
        return (
            self[:4] == other[:4]
            and abs(self.mean - other.mean) < SCORE_TOLERANCE
            and abs(self.characters - other.characters) <= LENGTH_TOLERANCE * self.characters
        )


def find_published(sets: list[PairSet]) -> dict[str, Published]:
    """Return, by name, the published split that a set is; most sets are none."""
    known = list(_known({MTEB_TYPES[one.kind] for one in sets}))
    found = {}
    for one in sets:
        own = fingerprint(one)
        matches = [split for counts, split in known if counts.is_like(own)]
        # Two tasks with the same counts are versions of one; neither name would be safe.
        if len(matches) == 1:
            found[one.name] = matches[0]
    return found


def fingerprint(pairs: PairSet) -> Fingerprint:
    """Count what mteb counts."""
    return Fingerprint(
        len(pairs.targets),
        len(set(pairs.firsts)),
        len(set(pairs.seconds)),
        len(set(zip(pairs.firsts, pairs.seconds, strict=True))),
        sum(pairs.targets) / len(pairs.targets),
        sum(map(len, pairs.firsts)) + sum(map(len, pairs.seconds)),
    )


def _known(types: set[Any]) -> Iterator[tuple[Fingerprint, Published]]:
    """Yield the counts of all splits of all tasks in one language."""
    import mteb

    if not types:
        return
    for task in mteb.get_tasks(task_types=sorted(types)):
        stats = task.metadata.descriptive_stats
        if stats is None or task.metadata.is_multilingual:
            continue
        for split in task.metadata.eval_splits:
            counts = _read(stats.get(split) or {})
            if counts is not None:
                yield counts, Published(task, split)


def _read(stats: Any) -> Fingerprint | None:
    """Read mteb's record of a split; tasks of pictures and sounds have none of texts."""
    first, second = stats.get("text1_statistics"), stats.get("text2_statistics")
    labels = stats.get("label_statistics") or stats.get("labels_statistics")
    if not first or not second or not labels or "unique_pairs" not in stats:
        return None
    return Fingerprint(
        stats["num_samples"],
        first["unique_texts"],
        second["unique_texts"],
        stats["unique_pairs"],
        _mean(labels, stats["num_samples"]),
        first["total_text_length"] + second["total_text_length"],
    )


def _mean(labels: Any, samples: int) -> float:
    if "avg_score" in labels:
        return float(labels["avg_score"])
    counts = {label: entry["count"] for label, entry in labels["labels"].items()}
    return float(counts.get("1", 0) / samples)
