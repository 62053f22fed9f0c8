"""Kinds of synthetic data: what a model is given, the JSON it must answer, and what that becomes.

An answer is read strictly: what does not follow the schema, is empty, repeats the passage or is in
the wrong language makes no pair, and the reason says which.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from curation.synthesis.seeds import Seed
from curation.texts import encode, from_strings, normalize

LANGUAGES: Final = ("zh", "en")
# Shares of letters; a Chinese question can name an English product, and the other way round.
MIN_SHARE: Final = {"zh": 0.3, "en": 0.7}
# A shorter text can stand in the passage word for word and still be a question of its own.
COPY_MIN_CHARS: Final = 30
MAX_CHARS: Final = 2_000
SIMILARITY_STEPS: Final = 5
CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # not tab, not line ends


class AnswerError(ValueError):
    """An answer from which nothing can be used; the message is the reason for quarantine."""


@dataclass(frozen=True)
class Draft:
    """A pair before it has an id."""

    query: str
    positive: str
    negatives: tuple[str, ...] | None = None
    label: float | None = None


@dataclass(frozen=True)
class Reading:
    """What an answer gave: pairs, and the reasons for what was left out of it."""

    drafts: list[Draft]
    faults: list[str]


@dataclass(frozen=True)
class Kind:
    """A kind of synthetic data; ``fields`` are the placeholders that a prompt must use."""

    name: str
    form: str
    task: str
    fields: tuple[str, ...]
    key: str  # of the list in the answer
    item: Mapping[str, Any]  # JSON schema of an item
    drafts: Callable[[Seed, list[Any], str], Reading]

    def schema(self, count: int) -> dict[str, Any]:
        """Write the JSON schema of an answer with so many items."""
        items = {"type": "array", "minItems": count, "maxItems": count, "items": dict(self.item)}
        return one_object({self.key: items})

    def values(self, seed: Seed, count: int) -> dict[str, str]:
        """Return what stands for the placeholders."""
        known = {"passage": seed.passage, "query": seed.query or "", "count": str(count)}
        return {name: known[name] for name in self.fields}

    def read(self, seed: Seed, content: str, count: int, language: str) -> Reading:
        """Read an answer; AnswerError where nothing of it can be used."""
        items = _items(content, self.key, count)
        reading = self.drafts(seed, items, language)
        if not reading.drafts:
            raise AnswerError("; ".join(dict.fromkeys(reading.faults)))
        return reading


def parse_answer(content: str) -> Any:
    """Parse an answer's JSON; AnswerError where it is none.

    Control characters in a text are let through: where a schema bounds its length, vLLM's grammar
    (xgrammar) forbids escapes and quotes in it, and allows them.
    """
    if not content.strip():
        raise AnswerError("the answer is empty")
    try:
        return json.loads(content, strict=False)
    except (ValueError, RecursionError):
        raise AnswerError("the answer is not JSON") from None


def shape_fault(text: Any) -> str | None:
    """Say why something in an answer is no text to read, or None."""
    if not isinstance(text, str):
        return "is not a text"
    if not text.strip():
        return "is empty"
    if len(text) > MAX_CHARS:
        return f"is longer than {MAX_CHARS:,} characters"
    if CONTROLS.search(text):
        return "holds a control character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate"
    return None


class Texts:
    """The texts of one answer, normalised together: one by one it takes longer than the request."""

    def __init__(self, language: str, texts: Iterable[Any], given: Sequence[str] = ()) -> None:
        self.language = language
        sound = [text for text in texts if shape_fault(text) is None] + list(given)
        self.normal = dict(zip(sound, normal_texts(sound), strict=True))

    def fault(self, text: Any, copied: Sequence[str]) -> str | None:
        """Say why a text cannot be used, or None; ``copied`` must not be repeated."""
        shape = shape_fault(text)
        if shape:
            return shape
        if not any(map(str.isalnum, text)):
            return "has no letters"
        normal = self.normal[text]
        for other in copied:
            whole = self.normal[other]
            if normal == whole or (len(normal) >= COPY_MIN_CHARS and normal in whole):
                return "is a copy"
        return None if _is_in(text, self.language) else f"is not in the language {self.language}"


def normal_texts(texts: Sequence[str]) -> list[str]:
    """Write texts as keys see them: one width and script, lower case, letters and digits alone."""
    found: list[str] = encode(normalize(from_strings(texts))).to_pylist()
    return found


def _queries(seed: Seed, items: list[Any], language: str) -> Reading:
    texts, faults = _distinct(items, "query", language, [seed.passage])
    return Reading([Draft(text, seed.passage) for text in texts], faults)


def _negatives(seed: Seed, items: list[Any], language: str) -> Reading:
    assert seed.query is not None
    texts, faults = _distinct(items, "negative", language, [seed.passage, seed.query])
    drafts = [Draft(seed.query, seed.passage, tuple(texts))] if texts else []
    return Reading(drafts, faults)


def _graded(seed: Seed, items: list[Any], language: str) -> Reading:
    """Read pairs of sentences; the first may be one of the passage's own."""
    sides = ("sentence1", "sentence2")
    objects = [item for item in items if isinstance(item, dict)]
    texts = Texts(language, (one.get(side) for one in objects for side in sides))
    drafts, faults = [], []
    for item in items:
        fault = _graded_fault(item, texts)
        if fault:
            faults.append(fault)
            continue
        first, second = (item[side].strip() for side in sides)
        drafts.append(Draft(first, second, label=item["similarity"] / SIMILARITY_STEPS))
    return Reading(drafts, faults)


def _graded_fault(item: Any, texts: Texts) -> str | None:
    if not isinstance(item, dict) or set(item) != {"sentence1", "sentence2", "similarity"}:
        return "does not follow the schema: a pair is sentence1, sentence2, similarity"
    grade = item["similarity"]
    if type(grade) is not int or not 0 <= grade <= SIMILARITY_STEPS:
        return f"does not follow the schema: similarity is a number from 0 to {SIMILARITY_STEPS}"
    first = texts.fault(item["sentence1"], [])
    if first:
        return f"sentence1 {first}"
    second = texts.fault(item["sentence2"], [item["sentence1"]])
    return f"sentence2 {second}" if second else None


def _distinct(
    items: list[Any], what: str, language: str, copied: list[str]
) -> tuple[list[str], list[str]]:
    texts = Texts(language, items, copied)
    chosen: dict[str, str] = {}
    faults: list[str] = []
    for item in items:
        fault = texts.fault(item, copied)
        if fault is None and texts.normal[item] in chosen:
            fault = "repeats another"
        if fault:
            faults.append(f"{what} {fault}")
        else:
            chosen[texts.normal[item]] = item.strip()
    return list(chosen.values()), faults


def _items(content: str, key: str, count: int) -> list[Any]:
    answer = parse_answer(content)
    if not isinstance(answer, dict) or set(answer) != {key} or not isinstance(answer[key], list):
        raise AnswerError(f"the answer does not follow the schema: an object with a list {key!r}")
    items: list[Any] = answer[key]
    if not 0 < len(items) <= count:
        raise AnswerError(f"the answer does not follow the schema: {len(items)} items, not {count}")
    return items


def _is_in(text: str, language: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return False
    if language == "zh":
        own = sum("\u3400" <= one <= "\u9fff" or one >= "\U00020000" for one in letters)
    else:
        own = sum(one < "\u0250" for one in letters)
    return own / len(letters) >= MIN_SHARE[language]


def one_object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Write the JSON schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


# Without a minLength: vLLM could write no quotation mark in it (see parse_answer).
_TEXT: Final = {"type": "string"}
_GRADE: Final = {"type": "integer", "minimum": 0, "maximum": SIMILARITY_STEPS}
_PAIR: Final = one_object({"sentence1": _TEXT, "sentence2": _TEXT, "similarity": _GRADE})
_ALL: Final = (
    Kind("queries", "question-answer", "retrieval", ("passage", "count"), "queries", _TEXT,
         _queries),
    Kind("negatives", "question-answer", "retrieval", ("query", "passage", "count"), "negatives",
         _TEXT, _negatives),
    Kind("sts", "text-text", "sts", ("passage", "count"), "pairs", _PAIR, _graded),
)  # fmt: skip
KINDS: Final = {kind.name: kind for kind in _ALL}
