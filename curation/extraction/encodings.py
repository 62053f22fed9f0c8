"""Bytes of a page as text: what is declared is tried, what the bytes say has the last word."""

import codecs
import re
from typing import Final

from curation.extraction.errors import PageError

# Each label stands for the largest set that browsers read it as (WHATWG Encoding Standard).
_WIDER: Final = {
    "gb2312": "gb18030", "gbk": "gb18030", "gb_2312-80": "gb18030", "x-gbk": "gb18030",
    "cp936": "gb18030", "euc-cn": "gb18030", "big5": "big5hkscs", "big5-hkscs": "big5hkscs",
    "x-x-big5": "big5hkscs", "cn-big5": "big5hkscs", "iso-8859-1": "cp1252", "latin1": "cp1252",
    "us-ascii": "cp1252", "ascii": "cp1252", "shift_jis": "cp932", "sjis": "cp932",
    "x-sjis": "cp932", "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "utf8": "utf-8",
    "unicode": "utf-8",
}  # fmt: skip
_BOMS: Final = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip
_META: Final = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w\-:.]+)", re.IGNORECASE)
_XML: Final = re.compile(rb"<\?xml[^>]+encoding\s*=\s*[\"']([\w\-:.]+)", re.IGNORECASE)
HEAD_BYTES: Final = 4096
# What a page without a declaration can be in; order decides between equals.
GUESSES: Final = ("gb18030", "big5hkscs")
# The most frequent characters of Chinese running text, simplified and traditional: a text that was
# read in the wrong encoding has next to none of them.
FREQUENT: Final = frozenset(
    "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可里后小么"
    "心多天而能好都然没日于起还发成事只作当想看文无开手用主行方又如前所本见經这個國來說們為時過對後學會發"
    "這裡還沒開與從長無兩現點讓業關於，。、：！"
)
# Share of Chinese characters that are frequent ones: real text has 0.3 and more, misread text 0.02.
MIN_FREQUENT: Final = 0.12
# A page is not refused for a few broken bytes; more of them make its text worthless.
MAX_BROKEN: Final = 0.02


def decode_page(data: bytes, declared: str = "") -> tuple[str, str]:
    """Return a page's text and the encoding it was read in; PageError where none fits.

    ``declared`` is the charset of the HTTP header. Bytes that are valid UTF-8 are UTF-8, whatever
    is declared: no other text looks like it by chance.
    """
    for mark, name in _BOMS.items():
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace"), name
    text = _strict(data, "utf-8")
    if text is not None:
        return text, "utf-8"
    names = [_known(name) for name in (declared, *_declared_in(data))]
    for name in names:
        text = _strict(data, name) if name and name not in ("utf-8", "cp1252") else None
        if text is not None and _is_plausible(text, name):
            return text, name
    return _guess(data, [name for name in names if name])


def _strict(data: bytes, name: str) -> str | None:
    """Decode without an error, but for a character that is cut at the end of the page."""
    try:
        return codecs.getincrementaldecoder(name)().decode(data, final=False)
    except UnicodeDecodeError:
        return None


def _declared_in(data: bytes) -> list[str]:
    head = data[:HEAD_BYTES]
    found = (pattern.search(head) for pattern in (_META, _XML))
    return [match.group(1).decode("ascii", "ignore") for match in found if match]


def _known(label: str) -> str:
    """Return the encoding that a label stands for, empty where there is none."""
    name = label.strip(" \"'").lower()
    name = _WIDER.get(name, name)
    try:
        return name if name and codecs.lookup(name)._is_text_encoding else ""
    except (LookupError, ValueError):
        return ""


def _is_plausible(text: str, name: str) -> bool:
    """Refuse a Chinese reading that has none of the characters that Chinese texts have."""
    return name not in GUESSES or _chinese(text) < 30 or _frequency(text) >= MIN_FREQUENT


def _guess(data: bytes, declared: list[str]) -> tuple[str, str]:
    """Choose the reading with the fewest broken bytes and the most frequent characters."""
    names = dict.fromkeys([*declared, "utf-8", *GUESSES])
    readings = {name: data.decode(name, "replace") for name in names}
    high = sum(byte > 0x7F for byte in data)

    def broken(name: str) -> float:
        return readings[name].count("\ufffd") / max(1, len(readings[name]))

    best = max(names, key=lambda name: _frequency(readings[name]) - 10 * broken(name))
    if broken(best) <= MAX_BROKEN and _frequency(readings[best]) >= MIN_FREQUENT:
        return readings[best], best
    for name in declared:
        if name != "cp1252" and name not in GUESSES and broken(name) <= MAX_BROKEN:
            return readings[name], name
    # Few high bytes among ASCII: a Western page.
    if high <= 0.2 * len(data):
        return data.decode("cp1252", "replace"), "cp1252"
    said = f" (declared: {', '.join(declared)})" if declared else ""
    raise PageError(f"no encoding fits its bytes{said}")


def _chinese(text: str) -> int:
    return sum("\u3000" <= char <= "\u9fff" for char in text)


def _frequency(text: str) -> float:
    high = [char for char in text if char > "\x7f"]
    return sum(char in FREQUENT for char in high) / len(high) if high else 0.0
