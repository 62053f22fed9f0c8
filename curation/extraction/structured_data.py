"""Questions and answers that a page declares: schema.org as JSON-LD and as microdata."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from lxml import html

from curation.extraction.blocks import parse_page, read_blocks

ANSWER_ROLES: Final = ("acceptedAnswer", "suggestedAnswer")
# Deeper than any page's data; a document nested on purpose ends here.
MAX_DEPTH: Final = 50


@dataclass(frozen=True)
class Answer:
    """An answer to a question; ``role`` is acceptedAnswer or suggestedAnswer."""

    question: str
    text: str
    role: str
    syntax: str  # json-ld | microdata


def find_answers(root: html.HtmlElement) -> list[Answer]:
    """Return every answer of the page once, JSON-LD first."""
    found: dict[tuple[str, str], Answer] = {}
    for answer in (*_json_answers(root), *_microdata_answers(root)):
        if answer.question and answer.text:
            found.setdefault((answer.question, answer.text), answer)
    return list(found.values())


def plain_text(markup: str) -> str:
    """Return the text of a fragment that may be HTML."""
    if "<" not in markup and "&" not in markup:
        return markup.strip()
    root = parse_page(f"<body>{markup}</body>")
    return "" if root is None else "\n".join(block.text for block in read_blocks(root).blocks())


def _json_answers(root: html.HtmlElement) -> Iterator[Answer]:
    for script in root.iterfind(".//script[@type='application/ld+json']"):
        try:
            document = json.loads(_without_wrapping(script.text or ""), strict=False)
        except (ValueError, RecursionError):
            continue  # sites write broken JSON-LD; the page's text is still there
        for question in _questions(document):
            yield from _answers_of(question)


def _without_wrapping(text: str) -> str:
    text = text.strip().removeprefix("<!--").removeprefix("//<![CDATA[").removeprefix("<![CDATA[")
    return text.strip().removesuffix("-->").removesuffix("//]]>").removesuffix("]]>").rstrip("; \n")


def _questions(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Find all objects of type Question, wherever they are."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        if "Question" in _types(value):
            yield value
            return
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _questions(item, depth + 1)


def _types(value: dict[str, Any]) -> list[str]:
    types = value.get("@type")
    names = types if isinstance(types, list) else [types]
    return [name.rsplit("/", 1)[-1] for name in names if isinstance(name, str)]


def _answers_of(question: dict[str, Any]) -> Iterator[Answer]:
    asked = _said(question, "name") or _said(question, "text")
    for role in ANSWER_ROLES:
        given = question.get(role)
        for answer in given if isinstance(given, list) else [given]:
            if isinstance(answer, dict):
                yield Answer(asked, _said(answer, "text"), role, "json-ld")
            elif isinstance(answer, str):
                yield Answer(asked, plain_text(answer), role, "json-ld")


def _said(value: dict[str, Any], key: str) -> str:
    text = value.get(key)
    return plain_text(text) if isinstance(text, str) else ""


def _microdata_answers(root: html.HtmlElement) -> Iterator[Answer]:
    for question in root.iterfind(".//*[@itemtype]"):
        if not _is_item(question, "Question"):
            continue
        asked = _property(question, "name") or _property(question, "text")
        for role in ANSWER_ROLES:
            for answer in question.iterfind(f".//*[@itemprop='{role}']"):
                yield Answer(asked, _property(answer, "text"), role, "microdata")


def _is_item(element: html.HtmlElement, name: str) -> bool:
    return any(one.rsplit("/", 1)[-1] == name for one in (element.get("itemtype") or "").split())


def _property(item: html.HtmlElement, name: str) -> str:
    """Return an item's own property, not that of an item within it."""
    for element in item.iterfind(f".//*[@itemprop='{name}']"):
        owner = element.getparent()
        while owner is not None and owner is not item and owner.get("itemscope") is None:
            owner = owner.getparent()
        if owner is item:
            if element.tag == "meta":
                return (element.get("content") or "").strip()
            return "\n".join(block.text for block in read_blocks(element).blocks())
    return ""
