"""The topics of the demo corpus, read from the grammar files in ``material/``."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from curation.demo.grammar import Phrase, Vocabulary, parse

MATERIAL: Final = Path(__file__).parent / "material"
# Not topics: words for all, passages in other languages, pieces of defects.
VOCABULARIES: Final = ("foreign", "noise", "words")


@dataclass(frozen=True)
class Aspect:
    """One thing to ask about a subject: its titles and questions, and the sentences that answer.

    ``body`` holds sentences of this aspect alone: several passages can then tell of one subject
    without one of them answering another's question.
    """

    titles: tuple[Phrase, ...]
    asks: tuple[Phrase, ...]
    answers: tuple[Phrase, ...]
    body: tuple[Phrase, ...]


@dataclass(frozen=True)
class Topic:
    """A field with its words, subjects and sentences; every name in it is invented."""

    name: str
    source: str
    subject: Phrase
    slots: Vocabulary
    aspects: tuple[Aspect, ...]
    leads: tuple[Phrase, ...]
    body: tuple[Phrase, ...]
    intents: tuple[tuple[Phrase, ...], ...]  # of sts: each holds wordings of one meaning

    @property
    def shares_subject(self) -> bool:
        """Whether every aspect of a subject becomes a passage of its own."""
        return not self.body and not self.intents


@cache
def words() -> Vocabulary:
    """Return the words that all topics share."""
    return _vocabulary(_read("words"))


@cache
def all_topics() -> tuple[Topic, ...]:
    """Return every topic, by name; raise ValueError where a phrase needs a slot that nobody has."""
    names = sorted(path.stem for path in MATERIAL.glob("*.toml") if path.stem not in VOCABULARIES)
    return tuple(_topic(name, _read(name)) for name in names)


@cache
def foreign() -> tuple[Vocabulary, Mapping[str, tuple[Phrase, ...]]]:
    """Return the names of other languages, and the sentences of each language."""
    document = _read("foreign")
    slots = _vocabulary(document.pop("slots"))
    sentences = {language: _phrases(part["lines"]) for language, part in document.items()}
    for language, phrases in sentences.items():
        _check_slots(phrases, slots, f"foreign.toml, {language}")
    return slots, sentences


@cache
def noise() -> tuple[Vocabulary, Mapping[str, tuple[Phrase, ...]]]:
    """Return the words of the planted noise, and its lines by kind."""
    document = _read("noise")
    slots = _vocabulary(document["slots"])
    lines = {kind: _phrases(texts) for kind, texts in document["lines"].items()}
    for kind, phrases in lines.items():
        _check_slots(phrases, slots, f"noise.toml, {kind}")
    return slots, lines


def _topic(name: str, document: Mapping[str, Any]) -> Topic:
    subject = parse(document.get("subject", ""))
    slots = {"subject": (subject,), **_vocabulary(document.get("slots", {}))}
    aspects = tuple(
        Aspect(*(_phrases(aspect.get(key, ())) for key in ("title", "ask", "answer", "body")))
        for aspect in document.get("aspect", ())
    )
    intents = tuple(_phrases(intent["same"]) for intent in document.get("intent", ()))
    text = document.get("text", {})
    leads, body = _phrases(text.get("lead", ())), _phrases(text.get("body", ()))
    written = [*leads, *body, *(phrase for intent in intents for phrase in intent)]
    for aspect in aspects:
        written += [*aspect.titles, *aspect.asks, *aspect.answers, *aspect.body]
    _check_slots(written, slots, f"{name}.toml")
    return Topic(name, document["source"], subject, slots, aspects, leads, body, intents)


def _check_slots(phrases: Iterable[Phrase], slots: Vocabulary, where: str) -> None:
    known = words().keys() | slots.keys()
    needed: set[str] = set()
    for phrase in (*phrases, *(phrase for options in slots.values() for phrase in options)):
        needed |= phrase.slots()
    if unknown := sorted(needed - known):
        raise ValueError(f"{where}: no words for {', '.join(unknown)}; add them to its [slots]")


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((MATERIAL / f"{name}.toml").read_text(encoding="utf-8"))


def _phrases(texts: Iterable[str]) -> tuple[Phrase, ...]:
    return tuple(parse(text) for text in texts)


def _vocabulary(document: Mapping[str, Iterable[str]]) -> Vocabulary:
    if numbered := [name for name in document if name[-1].isdigit()]:
        raise ValueError(f"slot {numbered[0]!r}: a trailing number means another value; rename it")
    return {name: _phrases(texts) for name, texts in document.items()}
