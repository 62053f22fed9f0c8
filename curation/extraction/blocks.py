"""The text of an HTML page as a tree of containers and blocks, read in one walk."""

import re
from dataclasses import dataclass, field
from typing import Final

from lxml import etree, html

# What carries no text of the page, or no text that a visitor reads as such.
SKIPPED: Final = frozenset((
    "script", "style", "noscript", "template", "svg", "math", "canvas", "iframe", "object",
    "embed", "audio", "video", "map", "head", "button", "select", "option", "datalist", "input",
    "textarea", "label", "progress", "meter", "dialog", "link", "meta",
))  # fmt: skip
# Elements that flow within a line of text; all others begin and end a block.
INLINE: Final = frozenset((
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em",
    "font", "i", "ins", "kbd", "mark", "nobr", "q", "rp", "rt", "ruby", "s", "samp", "small",
    "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr", "img", "picture",
    "source", "o:p",
))  # fmt: skip
BOLD: Final = frozenset(("b", "strong"))
HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
# A line in bold is a heading below all others: Chinese news has few other section titles.
BOLD_LEVEL: Final = 7
BOLD_MAX_CHARS: Final = 40
# Some pages set whole paragraphs as headings, for the size of the letters.
HEADING_MAX_CHARS: Final = 120
SENTENCE_MARKS: Final = re.compile(r"[。！？；，、：!?;,]|\. ")
_SENTENCE_END: Final = re.compile(r"[。！？；，!?;,.…]$")
_HIDDEN: Final = re.compile(r"display\s*:\s*none", re.IGNORECASE)
# Characters that sites put between words to steer where lines break; they are no text.
_UNSEEN: Final = dict.fromkeys((0x00AD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF))
# libxml2 stops at this depth by itself; nothing that people read is nested like this.
MAX_DEPTH: Final = 250


@dataclass(slots=True)
class Block:
    """A paragraph, heading, list item or table row; ``level`` is 0 where it is no heading."""

    text: str
    link_chars: int
    level: int = 0

    @property
    def plain_chars(self) -> int:
        """Count the characters outside of links."""
        return max(0, len(self.text) - self.link_chars)

    @property
    def is_link(self) -> bool:
        """Say whether most of the block is links."""
        return 2 * self.link_chars > len(self.text)

    @property
    def is_prose(self) -> bool:
        """Say whether the block is running text: it is long enough, and no list of links."""
        plain = self.plain_chars
        if self.level or self.is_link or plain < 12:
            return False
        return plain >= 80 or SENTENCE_MARKS.search(self.text) is not None


@dataclass(slots=True)
class Container:
    """A block element: its containers and blocks in order, and how much prose they hold."""

    tag: str
    hint: str  # class, id and role in lower case
    parts: list["Container | Block"] = field(default_factory=list)
    prose: int = 0
    chars: int = 0

    def blocks(self) -> list[Block]:
        """List the blocks within, in the order of the page."""
        found: list[Block] = []
        for part in self.parts:
            if isinstance(part, Block):
                found.append(part)
            else:
                found += part.blocks()
        return found

    def measure(self) -> None:
        """Count characters and prose of this container and all within."""
        self.prose = self.chars = 0
        for part in self.parts:
            if isinstance(part, Block):
                self.chars += len(part.text)
                self.prose += part.plain_chars if part.is_prose else 0
            else:
                part.measure()
                self.chars += part.chars
                self.prose += part.prose


def parse_page(text: str) -> html.HtmlElement | None:
    """Parse HTML, however broken; None where there is no element in it."""
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    # NUL would end the page; lone surrogates cannot be encoded.
    data = text.replace("\0", "").encode("utf-8", "replace")
    try:
        root = html.document_fromstring(data, parser=parser)
    except etree.ParserError:
        return None
    return root if isinstance(root, html.HtmlElement) else None


def read_blocks(root: html.HtmlElement) -> Container:
    """Walk a parsed page; hidden elements, scripts and controls are left out."""
    body = root.find("body")
    walk = _Walk()
    walk.enter(body if body is not None else root, 0)
    walk.flush()
    walk.container.measure()
    return walk.container


class _Walk:
    """Collects runs of inline text and closes a block wherever a block element begins or ends."""

    def __init__(self) -> None:
        self.container = Container("body", "")
        self.runs: list[str] = []
        self.link_chars = self.bold_chars = 0
        self.link = self.bold = self.pre = 0
        self.level = 0

    def enter(self, element: html.HtmlElement, depth: int) -> None:
        """Read an element's text and children."""
        if element.text:
            self.add(element.text)
        for child in element:
            if depth < MAX_DEPTH and isinstance(child.tag, str):
                self.visit(child, child.tag, depth + 1)
            if child.tail:
                self.add(child.tail)

    def visit(self, element: html.HtmlElement, tag: str, depth: int) -> None:
        """Read a child as what its tag says."""
        if tag in SKIPPED or _is_hidden(element):
            return
        if tag == "br":
            self.runs.append("\n")
        elif tag == "hr":
            self.flush()
        elif tag in INLINE:
            is_link, is_bold = tag == "a", tag in BOLD
            self.link += is_link
            self.bold += is_bold
            self.enter(element, depth)
            self.link -= is_link
            self.bold -= is_bold
        else:
            self.visit_block(element, tag, depth)

    def visit_block(self, element: html.HtmlElement, tag: str, depth: int) -> None:
        """Read a block element into a container of its own."""
        self.flush()
        outer, level = self.container, self.level
        self.container = Container(tag, _hint(element))
        self.level = HEADINGS.get(tag, level)
        self.pre += tag == "pre"
        self.enter(element, depth)
        self.flush()
        self.pre -= tag == "pre"
        inner, self.container, self.level = self.container, outer, level
        if inner.parts:
            outer.parts.append(_as_row(inner) if tag == "tr" else inner)

    def add(self, text: str) -> None:
        """Add a run of text; line ends of the source are spaces but for <pre>."""
        if not text.strip():
            self.runs.append(" ")
            return
        self.runs.append(text if self.pre else " ".join(_spaced(text)))
        if self.link or self.bold:
            chars = len(text.strip())
            self.link_chars += chars if self.link else 0
            self.bold_chars += chars if self.bold else 0

    def flush(self) -> None:
        """Close the block that the runs so far make."""
        if not self.runs:
            return
        joined = "".join(self.runs)
        text = joined.strip("\n") if self.pre else _clean_lines(joined)
        if text.strip():
            level = self.level if len(text) <= HEADING_MAX_CHARS else 0
            level = level or self.bold_level(text)
            block = Block(text, min(self.link_chars, len(text)), level)
            self.container.parts.append(block)
        self.runs, self.link_chars, self.bold_chars = [], 0, 0

    def bold_level(self, text: str) -> int:
        """Recognize a short line in bold that is no sentence as a heading."""
        is_heading = (
            len(text) <= BOLD_MAX_CHARS
            and self.bold_chars >= len(text) - 2
            and not self.link_chars
            and "\n" not in text
            and not _SENTENCE_END.search(text)
        )
        return BOLD_LEVEL if is_heading else 0


def _spaced(text: str) -> list[str]:
    """Split into words, with empty ends where white space stood there."""
    words = text.split()
    return [*([""] if text[0].isspace() else []), *words, *([""] if text[-1].isspace() else [])]


def _clean_lines(text: str) -> str:
    text = text.translate(_UNSEEN)
    if "\n" not in text:
        return " ".join(text.split())
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _is_hidden(element: html.HtmlElement) -> bool:
    style = element.get("style")
    return element.get("hidden") is not None or (
        style is not None and _HIDDEN.search(style) is not None
    )


def _hint(element: html.HtmlElement) -> str:
    parts = (element.get("class"), element.get("id"), element.get("role"), element.get("itemprop"))
    return " ".join(part for part in parts if part).lower()


def _as_row(row: Container) -> Container:
    """Write a row of short cells as one line; a row that lays out the page stays as it is."""
    cells = [part.blocks() if isinstance(part, Container) else [part] for part in row.parts]
    if len(cells) < 2 or any(len(cell) != 1 or len(cell[0].text) > 200 for cell in cells):
        return row
    text = " | ".join(cell[0].text.replace("\n", " ") for cell in cells)
    row.parts = [Block(text, sum(cell[0].link_chars for cell in cells))]
    return row
