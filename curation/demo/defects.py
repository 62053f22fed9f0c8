"""Planted defects: one function each turns a clean row into a row that curation must find.

A defect is real, not simulated: mojibake comes out of an encoding round trip, a near-duplicate out
of an edit of an earlier row, an advertisement out of a grammar of advertisements.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import opencc

from curation.demo.choices import Choices
from curation.demo.grammar import Scene
from curation.demo.passages import Pair
from curation.demo.topics import foreign, noise, words

# Invented, under a top-level domain that is reserved for examples (RFC 2606).
BLOCKED_DOMAINS: Final = tuple(
    f"{first}-{second}.example"
    for first in ("lucky", "cheap", "hot", "instant", "grand", "secret")
    for second in ("bets", "pills", "loans", "clones", "streams", "scores")
)
# Near-duplicates are made of passages long enough that the edit leaves Jaccard near 0.9.
MIN_TWIN_CHARS: Final = 130
CHARS_PER_EDIT: Final = 100
PRIVATE_USE: Final = range(0xE000, 0xF8FF)
CONTROLS: Final = (*range(0x01, 0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F, 0x200B, 0xFFFC)
SYMBOLS: Final = "■◆★▲※§→♂☯◎▓▒░♠♥♣♪☆●◇∞≈√╬┼╪⊙Θ"
RULES: Final = ("-", "=", "*", "_", "—", "~", "·", "|")


@dataclass(frozen=True)
class Damage:
    """What a defect did: the damaged row, how it was done, and the row it repeats if any."""

    pair: Pair
    detail: str
    url: str | None = None
    twin: int | None = None


@dataclass(frozen=True)
class Original:
    """A clean row that was written before, with its number in the source."""

    row: int
    pair: Pair
    url: str | None


def exact_duplicate(original: Original, choices: Choices) -> Damage:
    """Repeat an earlier row."""
    return Damage(original.pair, "copy", original.url, original.row)


def near_duplicate(original: Original, choices: Choices) -> Damage:
    """Repeat an earlier row with few edits, in another width or script, or a sentence longer."""
    detail = choices.pick(tuple(NEAR), "near")
    positive = NEAR[detail](original.pair.positive, choices)
    return Damage(replace(original.pair, positive=positive), detail, original.url, original.row)


def wrong_language(pair: Pair, choices: Choices) -> Damage:
    """Answer in English, Japanese, Russian or Korean."""
    slots, sentences = foreign()
    language = choices.pick(tuple(sentences), "language")
    phrases = sentences[language]
    scene = Scene({}, slots, choices)
    chosen = choices.order(len(phrases), "lines")[: choices.between(3, len(phrases), "count")]
    space = "" if language == "japanese" else " "
    text = space.join(phrases[i].write(scene) for i in chosen)
    return Damage(replace(pair, positive=text), language)


def mojibake(pair: Pair, choices: Choices) -> Damage:
    """Read the passage in an encoding that it was not written in."""
    detail = choices.pick(tuple(ROUND_TRIPS), "encoding")
    return Damage(replace(pair, positive=ROUND_TRIPS[detail](pair.positive)), detail)


def advertisement(pair: Pair, choices: Choices) -> Damage:
    """Advertise instead of the passage, or inside it: a partial advertisement is one."""
    lines = _noise_lines("advertisement", choices)
    if choices.share("partial") < 0.5:
        place = pair.positive.find("。") + 1
        text = pair.positive[:place] + "".join(lines[:2]) + pair.positive[place:]
        return Damage(replace(pair, positive=text), "partial")
    text = "\n".join(lines[: choices.between(2, 4, "count")])
    return Damage(replace(pair, positive=text), "whole")


def boilerplate(pair: Pair, choices: Choices) -> Damage:
    """Bury a piece of the passage under navigation, sharing and copyright lines."""
    lines = _noise_lines("boilerplate", choices)[: choices.between(7, 10, "count")]
    start = pair.positive[: choices.between(15, 40, "kept")]
    place = choices.between(1, 3, "place")
    text = "\n".join([*lines[:place], start, *lines[place:]])
    return Damage(replace(pair, positive=text), "page")


def repetition(pair: Pair, choices: Choices) -> Damage:
    """Repeat a sentence, a phrase or a character."""
    detail = choices.pick(("sentence", "phrase", "character"), "what")
    times = choices.between(6, 14, "times")
    sentence = pair.positive.replace("\n", "").split("。")[0][:80]
    text = {
        "sentence": (sentence + "。\n") * times,
        "phrase": sentence + "，" + sentence[-6:] * (3 * times) + "。",
        "character": sentence + choices.pick(_texts("exclaim"), "character") * (8 * times),
    }[detail]
    return Damage(replace(pair, positive=text.rstrip()), detail)


def too_short(pair: Pair, choices: Choices) -> Damage:
    """Answer nothing in a word."""
    return Damage(replace(pair, positive=choices.pick(_texts("short"), "short")), "word")


def echo(pair: Pair, choices: Choices) -> Damage:
    """Answer with the query."""
    forms = {
        "same": "{0}",
        "asked": "{0}？",
        "polite": "请问{0}",
        "twice": "{0}，{0}",
        "quoted": "“{0}”。",
    }
    detail = choices.pick(tuple(forms), "form")
    return Damage(replace(pair, positive=forms[detail].format(pair.query)), detail)


def blocked_domain(pair: Pair, choices: Choices) -> Damage:
    """Come from a domain of the block list, sometimes from a host below it."""
    host = choices.pick(("", "www.", "m.", "news."), "host")
    host += choices.pick(BLOCKED_DOMAINS, "domain")
    return Damage(pair, host, f"https://{host}/{choices.between(1000, 99999, 'page')}.html")


def html_leftovers(pair: Pair, choices: Choices) -> Damage:
    """Leave the tags, entities and scripts of a page in the passage."""
    opening, inline, closing = (
        _noise_lines(kind, choices) for kind in ("html_open", "html_inline", "html_close")
    )
    pieces = [piece for piece in pair.positive.split("。") if piece]
    tagged = "".join(f"{piece}。{inline[i % len(inline)]}" for i, piece in enumerate(pieces))
    return Damage(replace(pair, positive=f"{opening[0]}{opening[1]}{tagged}{closing[0]}"), "tags")


def abnormal_characters(pair: Pair, choices: Choices) -> Damage:
    """Put private-use, control or symbol characters into the passage: one for every two to six."""
    alphabets: dict[str, Sequence[str]] = {
        "private_use": [chr(code) for code in PRIVATE_USE],
        "control": [chr(code) for code in CONTROLS],
        "symbols": SYMBOLS,
    }
    detail = choices.pick(tuple(alphabets), "alphabet")
    gap = choices.between(2, 6, "gap")
    pieces = [pair.positive[i : i + gap] for i in range(0, len(pair.positive), gap)]
    text = "".join(
        piece + choices.pick(alphabets[detail], f"character.{i}") for i, piece in enumerate(pieces)
    )
    return Damage(replace(pair, positive=text), detail)


def separators(pair: Pair, choices: Choices) -> Damage:
    """Rule off every sentence by a line of dashes, longer than the sentence."""
    mark = choices.pick(RULES, "mark")
    lines = [
        f"{piece}\n{mark * (len(piece) + choices.between(5, 40, piece))}"
        for piece in pair.positive.split("。")
        if piece
    ]
    return Damage(replace(pair, positive="\n".join(lines)), mark)


def traditional(text: str) -> str:
    """Write the text in traditional characters: another script, not a defect."""
    converted: str = _to_traditional().convert(text)
    return converted


def _edited(text: str, choices: Choices) -> str:
    """Replace, drop or double few characters, far from each other."""
    characters = list(text)
    for edit in range(max(1, len(text) // CHARS_PER_EDIT)):
        place = edit * CHARS_PER_EDIT + choices.between(5, CHARS_PER_EDIT - 5, f"place.{edit}")
        place = min(place, len(characters) - 1)
        character = characters[place]
        other = text[choices.below(len(text), f"other.{edit}")]
        edits = ("", character * 2, other if other != character else character * 3)
        characters[place] = choices.pick(edits, f"edit.{edit}")
    return "".join(characters)


def _other_width(text: str, choices: Choices) -> str:
    """Write digits, letters and marks full width, and full-width marks narrow."""
    wide = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
    return text.translate({**wide, ord("，"): ",", ord("："): ":", ord("！"): "!", ord("？"): "?"})


def _appended(text: str, choices: Choices) -> str:
    return text + _noise_lines("appended", choices)[0]


@cache
def _to_traditional() -> opencc.OpenCC:
    return opencc.OpenCC("s2t")


@cache
def _texts(kind: str) -> tuple[str, ...]:
    """Return the lines of a kind that have no slots."""
    slots, lines = noise()
    scene = Scene(words(), slots, Choices(""))
    return tuple(phrase.write(scene) for phrase in lines[kind])


def _noise_lines(kind: str, choices: Choices) -> list[str]:
    """Write all lines of a kind in a random order."""
    slots, lines = noise()
    scene = Scene(words(), slots, choices)
    return [lines[kind][i].write(scene) for i in choices.order(len(lines[kind]), kind)]


NEAR: Final[Mapping[str, Callable[[str, Choices], str]]] = {
    "edited": _edited,
    "width": _other_width,
    "script": lambda text, choices: traditional(text),
    "appended": _appended,
}
ROUND_TRIPS: Final[Mapping[str, Callable[[str], str]]] = {
    "utf-8 read as windows-1252": lambda text: text.encode().decode("cp1252", "replace"),
    "utf-8 read as gbk": lambda text: text.encode().decode("gbk", "replace"),
    "gbk read as latin-1": lambda text: text.encode("gbk", "replace").decode("latin-1"),
    "gbk read as utf-8, then as gbk": lambda text: (
        text.encode("gbk", "replace").decode("utf-8", "replace").encode().decode("gbk", "replace")
    ),
}
REPEATS: Final[Mapping[str, Callable[[Original, Choices], Damage]]] = {
    "exact_duplicate": exact_duplicate,
    "near_duplicate": near_duplicate,
}
DAMAGES: Final[Mapping[str, Callable[[Pair, Choices], Damage]]] = {
    "wrong_language": wrong_language,
    "mojibake": mojibake,
    "advertisement": advertisement,
    "boilerplate": boilerplate,
    "repetition": repetition,
    "too_short": too_short,
    "echo": echo,
    "blocked_domain": blocked_domain,
    "html_leftovers": html_leftovers,
    "abnormal_characters": abnormal_characters,
    "separators": separators,
}
