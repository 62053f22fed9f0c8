"""A Markdown document as blocks: headings with their levels, paragraphs, lists and code."""

import re
from collections.abc import Iterator
from typing import Final

from curation.extraction.blocks import Block

_FENCE: Final = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_ATX: Final = re.compile(r"^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$")
_SETEXT: Final = re.compile(r"^ {0,3}(=+|-+)\s*$")
_RULE: Final = re.compile(r"^ {0,3}(?:[-*_]\s*){3,}$")
_ITEM: Final = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+")
_FRONT_TITLE: Final = re.compile(r"^title\s*[:=]\s*[\"']?(.*?)[\"']?\s*$", re.MULTILINE)
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_IMAGE: Final = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_LINK: Final = re.compile(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])")
_REFERENCE: Final = re.compile(r"^ {0,3}\[[^\]]+\]:\s+\S+.*$")
_TAG: Final = re.compile(r"</?[a-zA-Z][^>\n]*>")
_MARKS: Final = re.compile(r"(\*\*|__|~~|`)(.+?)\1")


def read_markdown(text: str) -> tuple[str, list[Block]]:
    """Return a document's title, empty where it has none, and its blocks.

    The title is the front matter's, else the first heading when nothing stands before it.
    """
    front, body = _front_matter(text.replace("\r\n", "\n"))
    blocks = list(_blocks(_COMMENT.sub("", body).split("\n")))
    match = _FRONT_TITLE.search(front)
    if match and match.group(1):
        title = match.group(1)
        if blocks and blocks[0].level and blocks[0].text == title:
            del blocks[0]
        return title, blocks
    if blocks and blocks[0].level:
        return blocks[0].text, blocks[1:]
    return "", blocks


def _front_matter(text: str) -> tuple[str, str]:
    for mark in ("---", "+++"):
        if text.startswith(f"{mark}\n"):
            front, found, body = text[4:].partition(f"\n{mark}\n")
            if found:
                return front, body
    return "", text


def _blocks(lines: list[str]) -> Iterator[Block]:
    held: list[str] = []
    fence = ""
    for line in lines:
        match = _FENCE.match(line)
        if fence:
            if match and match.group(1).startswith(fence):
                yield from _paragraph(held, is_code=True)
                held, fence = [], ""
            else:
                held.append(line)
            continue
        heading = _ATX.match(line)
        starts = bool(match or heading or not line.strip() or _ITEM.match(line))
        setext = _SETEXT.match(line) if held else None
        if setext and len(held) == 1:
            yield Block(plain_inline(held[0]), 0, 1 if setext.group(1)[0] == "=" else 2)
            held = []
            continue
        if starts or _RULE.match(line):
            yield from _paragraph(held)
            held = []
        if match:
            fence = match.group(1)
        elif heading:
            name = plain_inline(heading.group(2) or "")
            if name:
                yield Block(name, 0, len(heading.group(1)))
        elif line.strip() and not _RULE.match(line) and not _REFERENCE.match(line):
            held.append(line)
    yield from _paragraph(held, is_code=bool(fence))


def _paragraph(lines: list[str], is_code: bool = False) -> Iterator[Block]:
    if is_code:
        text = "\n".join(lines).strip("\n")
    else:
        text = "\n".join(plain_inline(_ITEM.sub("", line).strip().lstrip("> ")) for line in lines)
    if text.strip():
        yield Block(text, 0)


def plain_inline(text: str) -> str:
    """Return a line's text without the marks for links, images, emphasis and tags."""
    text = _LINK.sub(r"\1", _IMAGE.sub(r"\1", text))
    return _MARKS.sub(r"\2", _TAG.sub("", text)).strip()
