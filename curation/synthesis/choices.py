"""Choices: a model reads a passage, or a query with its passage, and names one of several answers.

A prompt is a TOML file with two templates and a table of choices. Where all names are numbers they
are grades, and a judgment is a score between 0 and 1; else they are labels.
"""

import hashlib
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from catalog.draws import draw
from catalog.records import to_json
from curation.synthesis.kinds import CONTROLS, AnswerError, one_object, parse_answer
from curation.synthesis.prompts import prompt_text, read_prompt_file
from curation.synthesis.seeds import Seed
from curation.synthesis.settings import check_sampling, sampled_schema

SHIPPED: Final = Path(__file__).parent / "judges"
FIELDS: Final = ("passage", "query", "choices")
WHY: Final = "why"
CHOICE: Final = "choice"
_KEYS: Final = ("about", "system", "user", "choices")
# Bounded, so that the choice comes before max_tokens whatever the model likes to repeat.
_WHY_CHARS: Final = 300


@dataclass(frozen=True)
class ChoicePrompt:
    """How a model is asked to choose; ``choices`` maps names to what they mean."""

    name: str
    system: str
    user: str
    choices: Mapping[str, str]
    about: str = ""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Check choices and placeholders; ValueError says what is allowed."""
        here = f"prompt {self.name}:"
        if len(self.choices) < 2 or not all(isinstance(one, str) for one in self.choices.values()):
            raise ValueError(f"{here} [choices] needs at least two names with a text each")
        templates = [string.Template(text) for text in (self.system, self.user)]
        if not all(template.is_valid() for template in templates):
            raise ValueError(f"{here} a lone $ in a template; write $$ for the sign itself")
        used = {name for template in templates for name in template.get_identifiers()}
        for name in sorted(used - set(FIELDS)):
            raise ValueError(f"{here} ${name} is none of {', '.join(sorted(FIELDS))}")
        for name in sorted({"passage", "choices"} - used):
            raise ValueError(f"{here} the template never says ${name}")
        if self.is_graded and self.highest == 0:
            raise ValueError(f"{here} the grades are all 0; the highest must be above it")
        content = {"system": self.system, "user": self.user, "choices": self.choices}
        digest = hashlib.sha256(to_json(content).encode()).hexdigest()[:12]
        object.__setattr__(self, "digest", digest)

    @property
    def is_graded(self) -> bool:
        """The choices are whole numbers from 0."""
        return all(name.isascii() and name.isdigit() for name in self.choices)

    @property
    def highest(self) -> int:
        """The highest grade."""
        return max(map(int, self.choices))

    @property
    def needs_query(self) -> bool:
        """It judges a query with its passage, and not a passage alone."""
        templates = (string.Template(text) for text in (self.system, self.user))
        return any("query" in template.get_identifiers() for template in templates)

    def score(self, choice: str) -> float:
        """Return a grade as a number between 0 and 1."""
        return int(choice) / self.highest

    def messages(self, seed: Seed) -> list[dict[str, str]]:
        """Write the messages of a request."""
        listed = "\n".join(f"- {name}: {text}" for name, text in self.choices.items())
        values = {"passage": seed.passage, "query": seed.query or "", "choices": listed}
        return [
            {"role": role, "content": string.Template(text).substitute(values).strip()}
            for role, text in (("system", self.system), ("user", self.user))
        ]

    def schema(self) -> dict[str, Any]:
        """Write the JSON schema of an answer: the reason comes first, so that it is thought of."""
        why = {"type": "string", "maxLength": _WHY_CHARS}
        choice = {"type": "string", "enum": list(self.choices)}
        return one_object({WHY: why, CHOICE: choice})

    def read(self, content: str) -> tuple[str, str]:
        """Return (choice, why) of an answer; AnswerError where it names none of the choices."""
        answer = parse_answer(content)
        if not isinstance(answer, dict) or CHOICE not in answer:
            raise AnswerError(f"the answer does not follow the schema: {WHY!r} and {CHOICE!r}")
        # A server without schemas may answer with a number.
        choice, why = str(answer[CHOICE]), str(answer.get(WHY, ""))
        if choice not in self.choices:
            raise AnswerError(f"the answer chooses none of {', '.join(self.choices)}")
        return choice, CONTROLS.sub("", why.encode("utf-8", "replace").decode())[:_WHY_CHARS]


@dataclass(frozen=True)
class JudgeSettings:
    """What decides a judgment: the model, the prompt, and how answers are sampled."""

    model: str
    prompt: ChoicePrompt
    max_answers: int = 2
    max_tokens: int = 512
    temperature: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings; ValueError says what is allowed."""
        check_sampling(self.model, self.max_answers, self.max_tokens, self.temperature)

    @property
    def revision(self) -> str:
        """Name what decides the scores of a prompt's name: prompt and model."""
        return f"{self.prompt.digest}-{self.model}"

    def as_document(self) -> dict[str, Any]:
        """Write the settings as plain data; they name the job."""
        return {
            "model": self.model, "prompt": self.prompt.name, "prompt_digest": self.prompt.digest,
            "max_answers": self.max_answers, "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }  # fmt: skip

    def body(self, seed: Seed, nth: int) -> dict[str, Any]:
        """Write a request for the nth answer about a seed (from 1), as the server takes it."""
        sampled = draw(0, "judgment", np.array([seed.pair_id]), np.array([nth]))
        return {
            "model": self.model,
            "messages": self.prompt.messages(seed),
            # The same answer once more would be as useless.
            "temperature": self.temperature if nth == 1 else max(self.temperature, 0.7),
            "max_tokens": self.max_tokens,
            **sampled_schema(sampled, "judgment", self.prompt.schema()),
        }

    def check(self, seed: Seed, content: str) -> None:
        """Raise AnswerError where an answer names no choice."""
        self.prompt.read(content)


def load_choices(name: str) -> ChoicePrompt:
    """Load a prompt of a judge: a TOML file, or the name of a shipped one."""
    path, content = read_prompt_file(name, SHIPPED, _KEYS)
    choices = content.get("choices")
    if not isinstance(choices, dict):
        raise ValueError(f"{path}: [choices] is a table of names and texts")
    system, user = (prompt_text(path, content, key) for key in ("system", "user"))
    return ChoicePrompt(path.stem, system, user, choices, content.get("about", ""))
