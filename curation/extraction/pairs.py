"""A page's text as pairs: title and content, heading and section, question and answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from curation.extraction.blocks import Block, parse_page, read_blocks
from curation.extraction.encodings import decode_page
from curation.extraction.errors import PageError
from curation.extraction.main_content import find_content
from curation.extraction.markdown import read_markdown
from curation.extraction.settings import PageSettings
from curation.extraction.structured_data import Answer, find_answers
from curation.extraction.titles import find_title


@dataclass(frozen=True)
class PagePair:
    """A pair out of a page; ``about`` says where in the page it stood."""

    kind: str
    query: str
    positive: str
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Extraction:
    """What a page gave: pairs, or the reason why there are none."""

    pairs: tuple[PagePair, ...] = ()
    encoding: str = ""
    reason: str = ""


def extract_page(format_name: str, data: bytes, charset: str, settings: PageSettings) -> Extraction:
    """Extract a page's pairs; whatever goes wrong is a reason, never an exception."""
    encoding = ""
    try:
        text, encoding = decode_page(data, charset)
        read = markdown_pairs if format_name == "markdown" else html_pairs
        return Extraction(tuple(read(text, settings)), encoding)
    except PageError as error:
        return Extraction(encoding=encoding, reason=str(error))
    except MemoryError:
        return Extraction(encoding=encoding, reason="took more memory than page_memory_mib")
    except Exception as error:  # noqa: BLE001  a page out there can break anything
        kind = type(error).__name__
        return Extraction(encoding=encoding, reason=f"extraction failed ({kind}: {error})")


def html_pairs(text: str, settings: PageSettings) -> list[PagePair]:
    """Return the pairs of an HTML page; PageError where it has none."""
    root = parse_page(text)
    if root is None:
        raise PageError("is empty")
    answers = find_answers(root) if "question-answer" in settings.kinds else []
    title = find_title(root)
    return _pairs(title, find_content(read_blocks(root), title), answers, settings)


def markdown_pairs(text: str, settings: PageSettings) -> list[PagePair]:
    """Return the pairs of a Markdown document; PageError where it has none."""
    title, blocks = read_markdown(text)
    return _pairs(title, blocks, [], settings)


def _pairs(
    title: str, blocks: Sequence[Block], answers: Sequence[Answer], settings: PageSettings
) -> list[PagePair]:
    content = "\n".join(block.text for block in blocks)
    found = []
    if title and len(content) >= settings.min_content_chars:
        found.append(PagePair("title-content", title, content))
    found += _sections(title, blocks, settings.min_section_chars)
    found += [
        PagePair("question-answer", answer.question, answer.text,
                 {"role": answer.role, "syntax": answer.syntax})
        for answer in answers
    ]  # fmt: skip
    found = [pair for pair in found if pair.kind in settings.kinds]
    if not found:
        raise PageError(_nothing(title, content, settings))
    return found


def _sections(title: str, blocks: Sequence[Block], min_chars: int) -> Iterator[PagePair]:
    """Yield each heading with the text up to the next one, and the headings it stands under."""
    path: list[tuple[int, str]] = []
    held: list[str] = []
    for block in (*blocks, Block("", 0, 1)):
        if not block.level:
            held.append(block.text)
            continue
        section = "\n".join(held)
        if path and path[-1][1] != title and len(section) >= min_chars:
            above = dict.fromkeys((title, *(name for _, name in path[:-1])))
            about = {"heading_path": [name for name in above if name]}
            yield PagePair("heading-section", path[-1][1], section, about)
        held = []
        while path and path[-1][0] >= block.level:
            path.pop()
        path.append((block.level, block.text))


def _nothing(title: str, content: str, settings: PageSettings) -> str:
    if not content:
        return "has no main content"
    if len(content) < settings.min_content_chars:
        return "its content is shorter than min_content_chars"
    return "holds none of the kinds of pairs that were asked for" if title else "has no title"
