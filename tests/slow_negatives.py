"""The published rules of dynamic hard negatives as plain loops over queries, to compare with."""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from catalog.pack import NONE
from tests.mined_pack import Mined, positions_of, score_of

N: Final = 5
CHECK_EVERY_STEPS: Final = 6
STEPS: Final = 160
BATCH: Final = 12
Event = tuple[Any, ...]  # step, pair, query, window, rank, s0, s, reason


@dataclass
class SlowQuery:
    """One query of the seed algorithm, in plain words."""

    kept: list[int]
    window: int = 1
    s0: float | None = None
    s: float | None = None
    seen: bool = False
    exhausted: bool = False
    slots: list[int] = field(default_factory=lambda: [10 + n for n in range(N)])
    slot_s0: list[float | None] = field(default_factory=lambda: [None] * N)
    following: int = 10 + N

    def negatives(self) -> list[int]:
        return self.kept[(self.window - 1) * N + 10 : self.window * N + 10]

    def passages(self) -> list[int]:
        return [self.kept[rank] if rank < len(self.kept) else NONE for rank in self.slots]

    def decide_singly(self, step: int, row: int) -> list[Event]:
        decisions: list[Event] = []
        ended: list[tuple[float, float]] = []
        for slot, passage in enumerate(self.passages()):
            if passage == NONE or self.exhausted:
                continue
            s = score_of(step, row, passage)
            first = self.slot_s0[slot]
            s0 = self.slot_s0[slot] = s if first is None else first
            if not (s0 < 0.4 or (1.2 * s < s0 and s < 0.7)):
                continue
            if self.following >= len(self.kept):
                ended.append((s0, s))
                continue
            self.window += 1
            decisions.append((self.window, self.following, s0, s, "replaced"))
            self.slots[slot], self.slot_s0[slot] = self.following, None
            self.following += 1
        if ended:
            self.exhausted = True
            decisions.append((self.window, None, *ended[0], "exhausted"))
        return decisions


def slow_v1(mined: Mined) -> tuple[list[list[list[int]]], list[Event]]:
    pack, pairs = mined.pack, mined.pack.pairs()
    queries = {row: SlowQuery(kept) for row, kept in mined.kept.items()}
    chosen, events, last_pair = [], [], {}
    for step in range(1, STEPS + 1):
        in_order = positions_of(step, BATCH, len(pack)).tolist()
        chosen.append([queries[int(pairs.query[p])].negatives() for p in in_order])
        done = set()
        for position in sorted(in_order):
            row = int(pairs.query[position])
            query = queries[row]
            if row in done or not query.negatives():
                continue
            done.add(row)
            found = [score_of(step, row, passage) for passage in query.negatives()]
            mean = float(np.float32(sum(found) / len(found)))
            last_pair[row] = int(pairs.pair_id[position])
            query.seen = True
            if query.s0 is None:
                query.s0 = mean
            else:
                query.s = mean
        if step % CHECK_EVERY_STEPS:
            continue
        for row, query in queries.items():
            was_seen, query.seen = query.seen, False
            if query.exhausted or query.s0 is None or query.s is None or not was_seen:
                continue
            if not (1.15 * query.s < query.s0 and abs(query.s) < 0.8):
                continue
            name = (last_pair[row], int(pack.ids("query")[row]))
            scored = (query.s0, query.s)
            if len(query.kept) > query.window * N + 10:
                events.append(
                    (step, *name, query.window + 1, query.window * N + 10, *scored, "replaced")
                )
                query.window, query.s0, query.s = query.window + 1, None, None
            else:
                events.append((step, *name, query.window, None, *scored, "exhausted"))
                query.exhausted = True
    return chosen, events


def slow_v2(mined: Mined) -> tuple[list[list[list[int]]], list[Event]]:
    pack, pairs = mined.pack, mined.pack.pairs()
    queries = {row: SlowQuery(kept) for row, kept in mined.kept.items()}
    chosen, events = [], []
    for step in range(1, STEPS + 1):
        positions = positions_of(step, BATCH, len(pack)).tolist()
        rows = [int(row) for row in pairs.query[positions]]
        chosen.append([queries[row].passages() for row in rows])
        # A query that is there with two positives is one observation, of the lower pair.
        named = {row: pos for pos, row in sorted(zip(positions, rows, strict=True), reverse=True)}
        for row, position in named.items():
            name = (int(pairs.pair_id[position]), int(pack.ids("query")[row]))
            decided = queries[row].decide_singly(step, row)
            events += [(step, *name, *decision) for decision in decided]
    return chosen, events
