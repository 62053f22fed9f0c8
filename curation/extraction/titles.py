"""The title of a page, without the name of the site that stands behind it."""

import re
from typing import Final

from lxml import html

TITLE_MAX_CHARS: Final = 300
MAX_HEADINGS: Final = 8
# Between a title and the name of a section or site.
_SEPARATOR: Final = re.compile(r"\s*[|｜_»«]+\s*|\s+[-–—·]+\s+|\s*(?:——|--)\s*")
_HYPHEN: Final = re.compile(r"^(.+?)\s*[-–—]\s*([^-–—]{2,20})$")
_SPACE: Final = re.compile(r"\s+")


def find_title(root: html.HtmlElement) -> str:
    """Return the title that headline, Open Graph and title element agree on; may be empty.

    A headline that the title element repeats is the title; the title element alone is cut at the
    name of the site.
    """
    page = _text(root.find(".//title"))
    named = [_text(heading) for heading in root.iterfind(".//h1")][:MAX_HEADINGS]
    named += [
        _clean(meta.get("content") or "") for meta in root.iterfind(".//meta[@property='og:title']")
    ]
    named = [name for name in named if 1 < len(name) <= TITLE_MAX_CHARS]
    first = strip_site(page)
    repeated = [name for name in named if _squeeze(name) in _squeeze(page)]
    best = strip_site(max(repeated, key=len, default=""))
    if best and 2 * len(best) >= len(first):
        return best
    return first or (strip_site(named[0]) if named else "")


def strip_site(title: str) -> str:
    """Cut what follows the title proper: ``标题_新闻频道_某网`` is 标题."""
    parts = [part for part in _SEPARATOR.split(title) if part]
    if not parts:
        return ""
    # The title comes first, unless what is first is only the name of a site.
    best = parts[0] if 2 * len(parts[0]) >= max(map(len, parts)) else max(parts, key=len)
    match = _HYPHEN.match(best)
    # COVID-19 is a word: a site's name is much shorter than the title before it.
    if match and len(match.group(1)) >= 2 * len(match.group(2)):
        best = match.group(1)
    return best[:TITLE_MAX_CHARS].strip()


def _text(element: html.HtmlElement | None) -> str:
    return "" if element is None else _clean(str(element.text_content()))


def _clean(text: str) -> str:
    return _SPACE.sub(" ", text).strip()


def _squeeze(text: str) -> str:
    return _SPACE.sub("", text)
