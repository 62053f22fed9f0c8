"""Finished requests as rows: pairs with their provenance, quarantine, and a row a request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from catalog.records import to_json
from catalog.schema import FILE_SHIFT, PAIRS, QUARANTINE, SYNTHESIS_REQUESTS
from curation.reading.arrow_rows import RAW_MAX_BYTES
from curation.synthesis.journal import Finished
from curation.synthesis.kinds import Draft
from curation.synthesis.seeds import Seed
from curation.synthesis.settings import SynthesisSettings
from curation.texts import from_strings, normalize, pair_keys, text_keys

SOURCE_PREFIX: Final = "synthetic:"


@dataclass
class Rows:
    """Rows of the three tables that one task writes; ``file_id`` numbers its pairs."""

    settings: SynthesisSettings
    run: str
    file_id: int
    drafts: list[tuple[Draft, int, str]] = field(default_factory=list)  # draft, request, meta
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)

    def add(self, seed: Seed, done: Finished) -> None:
        """Add what came of a request; call in the order of the requests."""
        slots = self.settings.slots(seed)
        drafts: list[Draft] = []
        faults = [done.reason] if done.reason else []
        if done.reason is None:
            assert done.content is not None
            kind, count = self.settings.kind, self.settings.count
            reading = kind.read(seed, done.content, count, self.settings.language(seed))
            drafts, faults = reading.drafts, reading.faults
        meta = to_json(self._provenance(seed, done, slots))
        self.drafts += [(draft, done.number, meta) for draft in drafts]
        raw = (done.content or "").encode("utf-8", "surrogatepass")[:RAW_MAX_BYTES]
        self.quarantine += [
            {"file_id": self.file_id, "row": done.number, "reason": fault, "raw": raw}
            for fault in dict.fromkeys(faults)
        ]
        self.requests.append(self._request(seed, done, slots, len(drafts)))

    def pairs(self) -> pa.Table:
        """Make the rows of ``pairs``, with keys and ids."""
        drafts = [draft for draft, _, _ in self.drafts]
        kind = self.settings.kind
        query_keys = _keys([draft.query for draft in drafts])
        positive_keys = _keys([draft.positive for draft in drafts])
        first = self.file_id << FILE_SHIFT
        columns = {
            "pair_id": pa.array(range(first, first + len(drafts)), pa.int64()),
            "source": [SOURCE_PREFIX + self.run] * len(drafts),
            "form": [kind.form] * len(drafts),
            "task": [kind.task] * len(drafts),
            "query": [draft.query for draft in drafts],
            "positive": [draft.positive for draft in drafts],
            "negatives": [draft.negatives for draft in drafts],
            "label": [draft.label for draft in drafts],
            "url": [None] * len(drafts),
            "meta": [meta for _, _, meta in self.drafts],
            "file_row": [request for _, request, _ in self.drafts],
            "query_key": query_keys,
            "positive_key": positive_keys,
            "pair_key": pair_keys(query_keys, positive_keys),
            "instruction": [None] * len(drafts),
        }
        return pa.table(columns, schema=PAIRS)

    def tables(self) -> dict[str, pa.Table]:
        """Return the rows of each table."""
        return {
            "pairs": self.pairs(),
            "quarantine": pa.Table.from_pylist(self.quarantine, QUARANTINE),
            "synthesis_requests": pa.Table.from_pylist(self.requests, SYNTHESIS_REQUESTS),
        }

    def _provenance(
        self, seed: Seed, done: Finished, slots: Mapping[str, str]
    ) -> dict[str, object]:
        prompt = self.settings.prompt
        return {
            "seed_id": seed.pair_id,
            "request": done.number,
            "model": self.settings.model,
            "prompt": prompt.name,
            "prompt_digest": prompt.digest,
            "slots": dict(slots),
        }

    def _request(
        self, seed: Seed, done: Finished, slots: Mapping[str, str], pairs: int
    ) -> dict[str, Any]:
        return self._provenance(seed, done, slots) | {
            "run": self.run,
            "slots": to_json(dict(slots)),
            "requests": done.requests,
            "answers": done.answers,
            "pairs": pairs,
            "reason": done.reason,
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
        }


def _keys(texts: Sequence[str]) -> pa.Array:
    return text_keys(normalize(from_strings(texts)))
