"""A grammar of sentences: ``{slot}`` is a word, ``{3..9}`` a number, ``[a|b]`` one of two wordings.

Within a scene (one passage with its query) a slot keeps its value, so a query and its passage tell
of the same city; ``{city2}`` is another city. ``{#}`` stays until the text is laid out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import xxhash

from curation.demo.choices import Choices

TOKEN: Final = re.compile(r"\{(?P<low>\d+)\.\.(?P<high>\d+)\}|\{(?P<slot>\w+)\}|(?P<mark>[\[\]|])")
ORDINAL: Final = "{#}"
# Another value of a slot is looked for this often; a table of one word has no other.
MAX_ATTEMPTS: Final = 32


class Part(Protocol):
    """A piece of a phrase that can write itself."""

    def write(self, scene: "Scene", scope: str) -> str:
        """Return the text of this piece in a scene."""


@dataclass(frozen=True)
class Literal:
    """Text that is written as it stands."""

    text: str

    def write(self, scene: "Scene", scope: str) -> str:
        """Return the text."""
        return self.text


@dataclass(frozen=True)
class Number:
    """A whole number between two bounds, both possible."""

    name: str
    low: int
    high: int

    def write(self, scene: "Scene", scope: str) -> str:
        """Return the digits."""
        return str(scene.choices.between(self.low, self.high, scope + self.name))


@dataclass(frozen=True)
class Slot:
    """A word that the scene remembers; ``table`` is its name without the trailing number."""

    name: str
    table: str

    def write(self, scene: "Scene", scope: str) -> str:
        """Return the word."""
        return scene.word(self, scope)


@dataclass(frozen=True)
class Wordings:
    """Several wordings, of which one is written."""

    name: str
    options: tuple["Phrase", ...]

    def write(self, scene: "Scene", scope: str) -> str:
        """Return the text of the chosen wording."""
        return scene.choices.pick(self.options, scope + self.name).write(scene, scope)


@dataclass(frozen=True)
class Phrase:
    """A sequence of parts."""

    parts: tuple[Part, ...]

    def write(self, scene: "Scene", scope: str = "") -> str:
        """Return the text of all parts."""
        return "".join([part.write(scene, scope) for part in self.parts])

    def slots(self) -> set[str]:
        """Return the tables this phrase needs."""
        found: set[str] = set()
        for part in self.parts:
            if isinstance(part, Slot):
                found.add(part.table)
            elif isinstance(part, Wordings):
                found.update(*(option.slots() for option in part.options))
        return found


Vocabulary = Mapping[str, Sequence[Phrase]]


class Scene:
    """The words of one passage and its query: chosen once, then kept."""

    def __init__(self, shared: Vocabulary, own: Vocabulary, choices: Choices) -> None:
        """Open a scene with the words that all topics share, and the topic's own."""
        self.choices = choices
        self._shared = shared
        self._own = own
        self._words: dict[str, str] = {}

    def word(self, slot: Slot, scope: str) -> str:
        """Return the slot's value, which differs from the values of the slot's lower numbers.

        A topic's own slot speaks of the passage, so its parts are the passage's; a shared word, or
        a numbered one, is made of parts of its own: ``{person2}`` has another surname.
        """
        key = scope + slot.name
        if (known := self._words.get(key)) is not None:
            return known
        taken: set[str] = set()
        if slot.name != slot.table:
            taken.add(self.word(Slot(slot.table, slot.table), scope))
            number = int(slot.name.removeprefix(slot.table))
            taken.update(self._words.get(f"{scope}{slot.table}{i}", "") for i in range(2, number))
        for attempt in range(MAX_ATTEMPTS):
            value = self._draw(slot, scope, key, attempt)
            if value not in taken:
                break
        self._words[key] = value
        return value

    def _draw(self, slot: Slot, scope: str, key: str, attempt: int) -> str:
        own = self._own.get(slot.table)
        options = own if own is not None else self._shared[slot.table]
        inner = scope if own is not None and slot.name == slot.table else f"{key}.{attempt}>"
        return self.choices.pick(options, f"{key}.{attempt}").write(self, inner)


def parse(text: str) -> Phrase:
    """Read a phrase; raise ValueError where brackets do not match."""
    tokens = _tokens(text)
    phrase, end = _sequence(tokens, 0, depth=0)
    assert end == len(tokens)
    return phrase


def _tokens(text: str) -> list[Part | str]:
    """Split into parts and the marks [ | ]; a choice is named by the text and its place in it."""
    stem = xxhash.xxh3_64_hexdigest(text)[:8]
    tokens: list[Part | str] = []
    depth = end = 0
    for match in TOKEN.finditer(text):
        if text[end : match.start()]:
            tokens.append(Literal(text[end : match.start()]))
        end = match.end()
        if match["low"]:
            tokens.append(Number(f"{stem}.{end}", int(match["low"]), int(match["high"])))
        elif match["slot"]:
            tokens.append(Slot(match["slot"], match["slot"].rstrip("0123456789")))
        else:
            depth += {"[": 1, "]": -1, "|": 0}[match["mark"]]
            if depth < 0:
                raise ValueError(f"no [ for the ] at character {end} of {text!r}")
            is_bar = depth == 0 and match["mark"] == "|"  # outside brackets a bar is a bar
            tokens.append(Literal("|") if is_bar else f"{match['mark']}{stem}.{end}")
    if depth:
        raise ValueError(f"{depth} [ without ] in {text!r}")
    if text[end:]:
        tokens.append(Literal(text[end:]))
    return tokens


def _sequence(tokens: list[Part | str], start: int, depth: int) -> tuple[Phrase, int]:
    parts: list[Part] = []
    position = start
    while position < len(tokens):
        token = tokens[position]
        if not isinstance(token, str):
            parts.append(token)
            position += 1
        elif token[0] == "[":
            wordings, position = _wordings(tokens, position, depth + 1)
            parts.append(wordings)
        else:
            break
    return Phrase(tuple(parts)), position


def _wordings(tokens: list[Part | str], start: int, depth: int) -> tuple[Wordings, int]:
    name = tokens[start]
    assert isinstance(name, str)
    options: list[Phrase] = []
    position = start
    while True:
        option, position = _sequence(tokens, position + 1, depth)
        options.append(option)
        mark = tokens[position]
        assert isinstance(mark, str)
        if mark[0] == "]":
            return Wordings(name, tuple(options)), position + 1
