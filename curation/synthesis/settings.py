"""What decides the result of a synthesis: model, prompt, seeds and how answers are sampled."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from catalog.draws import Hashes, draw
from curation.synthesis.kinds import KINDS, Kind
from curation.synthesis.prompts import LANGUAGE_SLOT, Prompt
from curation.synthesis.seeds import Seed, SeedSettings

MAX_COUNT: Final = 20
_SEED_BITS: Final = 31  # what every server takes


@dataclass(frozen=True)
class SynthesisSettings:
    """A run: ``count`` items are asked for in a request, ``max_answers`` times if none is usable.

    ``temperature`` and ``max_tokens`` are the server's; where the server stands is not part of it.
    """

    model: str
    prompt: Prompt
    seeds: SeedSettings = field(default_factory=SeedSettings)
    count: int = 3
    max_answers: int = 2
    max_tokens: int = 1_024
    temperature: float = 0.8

    def __post_init__(self) -> None:
        """Check the settings; ValueError says what is allowed."""
        check_sampling(self.model, self.max_answers, self.max_tokens, self.temperature)
        if not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"count is {self.count}; a request asks for 1 to {MAX_COUNT}")

    @property
    def kind(self) -> Kind:
        """Return what is made."""
        return KINDS[self.prompt.kind]

    def as_document(self) -> dict[str, Any]:
        """Write the settings as plain data; they name the job."""
        plain = {name: value for name, value in asdict(self).items() if name != "prompt"}
        return plain | {"prompt": self.prompt.name, "prompt_digest": self.prompt.digest}

    def slots(self, seed: Seed) -> dict[str, str]:
        """Draw the slots of a request."""
        return self.prompt.draw_slots(self.seeds.seed, seed.pair_id)

    def language(self, seed: Seed) -> str:
        """Return the language that the answer to a request must have."""
        return self.prompt.draw_slot(LANGUAGE_SLOT, self.seeds.seed, seed.pair_id)

    def body(self, seed: Seed, nth: int) -> dict[str, Any]:
        """Write a request for the nth answer about a seed (from 1), as the server takes it."""
        values = self.kind.values(seed, self.count)
        sampled = draw(
            self.seeds.seed, "synthesis answer", np.array([seed.pair_id]), np.array([nth])
        )
        return {
            "model": self.model,
            "messages": self.prompt.messages(self.slots(seed), values),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            **sampled_schema(sampled, self.kind.name, self.kind.schema(self.count)),
        }

    def check(self, seed: Seed, content: str) -> None:
        """Raise AnswerError where nothing of an answer can be used."""
        self.kind.read(seed, content, self.count, self.language(seed))


def check_sampling(model: str, max_answers: int, max_tokens: int, temperature: float) -> None:
    """Check how a model is asked; ValueError says what is allowed."""
    if not model.strip():
        raise ValueError("the model has no name; the server's /v1/models lists those it has")
    if max_answers < 1 or max_tokens < 1:
        raise ValueError("max_answers and max_tokens must be at least 1")
    if not 0 <= temperature <= 2:
        raise ValueError(f"temperature is {temperature}; it is between 0 and 2")


def sampled_schema(sampled: Hashes, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Write the parts of a request that seed its sampling and bind its answer to a JSON schema."""
    return {
        "seed": int(sampled[0] >> np.uint64(64 - _SEED_BITS)),
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": name, "schema": schema, "strict": True},
        },
    }
