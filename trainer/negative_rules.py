"""When hard negatives have become too easy: the published rules, as functions of plain numbers.

- v1 (Conan-embedding, arXiv 2408.15710), per data point, checked every 100 steps: all negatives of
  a query give way to its next window where ``1.15 * s < s0`` and ``|s| < 0.8``.
- v2 (arXiv 2509.12892), per negative, at every step: one negative gives way to the next unused
  candidate where ``s0 < 0.4``, or where ``1.2 * s < s0`` and ``s < 0.7``.
- ``rescored``: v1 says when; the hardest of the next ``pool`` candidates in the judgment of the
  current model come in, as far as they stay below the positive-aware margin.
- ``static``: never.
- ``sampled``: never, and the negatives are no window but a draw among the candidates of a range of
  ranks (FlagEmbedding's ``range_for_sampling``).

s is the newest score (v1: mean of a query's negatives), s0 the first since they came in. A score
that was not seen is NaN and lets nothing happen: after its first observation a query of v1 has an
s0 and no s, so that one pass over the data replaces nothing.
"""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from catalog.bounds import check_at_least_one

Rule = Literal["v1", "v2", "rescored", "static", "sampled"]
Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

RULES: Final[tuple[str, ...]] = get_args(Rule)
NEVER: Final = ("static", "sampled")  # rules that replace nothing


@dataclass(frozen=True)
class NegativeSettings:
    """How hard negatives are replaced; the defaults are those of v1, ``published`` knows all.

    ``drop_ratio``, ``ceiling`` and ``floor`` are 1.15 and 0.8, or 1.2, 0.7 and 0.4, of the rules
    above; only v2 has a floor. ``pool`` and ``relative_margin`` are of ``rescored``: how many
    candidates are scored again, and the share of the positive's score that they must stay below.
    ``ranks_from`` and ``ranks_to`` are of ``sampled``: the kept candidates it draws among, counted
    from 0, the last one not included; the draw is a hash of ``draw_seed``, query and rank.
    """

    rule: Rule = "v1"
    num_negatives: int = 7
    check_every_steps: int = 100
    drop_ratio: float = 1.15
    ceiling: float = 0.8
    floor: float = 0.4
    pool: int = 50
    relative_margin: float = 0.95
    ranks_from: int = 2
    ranks_to: int = 100
    draw_seed: int = 1

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule is {self.rule!r}; allowed are {', '.join(RULES)}")
        check_at_least_one(self, "num_negatives", "check_every_steps")
        if self.drop_ratio <= 0:
            raise ValueError(f"drop_ratio is {self.drop_ratio}; it must be above 0")
        if self.rule == "rescored" and self.pool < self.num_negatives:
            raise ValueError(
                f"pool is {self.pool}; it must be at least num_negatives ({self.num_negatives})"
            )
        if (
            self.rule == "sampled"
            and not 0 <= self.ranks_from <= self.ranks_to - self.num_negatives
        ):
            raise ValueError(
                f"ranks_from is {self.ranks_from} and ranks_to {self.ranks_to}; between them are "
                f"at least num_negatives ({self.num_negatives}) ranks, from 0"
            )
        if not 0 < self.relative_margin <= 1:
            raise ValueError(
                f"relative_margin is {self.relative_margin}; allowed is 0 < margin <= 1"
            )

    @classmethod
    def published(cls, rule: Rule, num_negatives: int = 7) -> "NegativeSettings":
        """Return a rule with the numbers of its paper."""
        if rule == "v2":
            return cls(rule, num_negatives, check_every_steps=1, drop_ratio=1.2, ceiling=0.7)
        return cls(rule, num_negatives)


def is_too_easy(s0: Scores, s: Scores, settings: NegativeSettings) -> Mask:
    """Say by the rule of the settings where negatives are to be replaced; NaN never is."""
    if settings.rule in NEVER:
        return np.zeros(s.shape, np.bool_)
    # Products in float64: in float32 a score on the border would depend on rounding.
    first, newest = s0.astype(np.float64), s.astype(np.float64)
    dropped = settings.drop_ratio * newest < first
    if settings.rule == "v2":
        easy: Mask = (first < settings.floor) | (dropped & (newest < settings.ceiling))
        return easy
    easy = dropped & (np.abs(newest) < settings.ceiling)
    return easy


def hardest_below_margin(
    scores: Scores, positive: Scores, n: int, relative_margin: float
) -> npt.NDArray[np.int64]:
    """Choose the n highest of scores [m, k] below each query's margin: places [m, n], -1: none.

    The margin is ``s+ - |s+| * (1 - relative_margin)`` (TopK-PercPos of NV-Retriever, arXiv
    2407.15831, and meaningful for negative scores, too). Equal scores go in order of place; a NaN
    is no candidate.
    """
    bound = positive.astype(np.float64)
    bound = bound - np.abs(bound) * (1 - relative_margin)
    allowed = scores.astype(np.float64) < bound[:, None]
    order = np.argsort(np.where(allowed, -scores, np.inf), axis=1, kind="stable")[:, :n]
    places = np.where(np.take_along_axis(allowed, order, axis=1), order, -1)
    missing = n - places.shape[1]
    chosen: npt.NDArray[np.int64] = np.pad(places, ((0, 0), (0, missing)), constant_values=-1)
    return chosen
