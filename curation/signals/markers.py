"""Marks of web pages, advertisements and broken encodings, counted.

A kernel looks at every character, counts what is simple and says which texts can hold the rest;
only those, a few of a hundred, are made Python strings and searched by a regular expression.
"""

import re
import string
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from curation.signals.batch import PairBatch, Side
from curation.signals.registry import Columns, Family, count
from curation.signals.settings import SignalSettings
from curation.texts import CodePoints, Flags, Offsets, Texts, kernel

# What the kernel says about a text.
_EMAIL, _PHONE, _CONTACT, _TAG, _ENTITY = 1, 2, 4, 8, 16
_PHONE_DIGITS: Final = 10  # 0xx-xxxxxxx; 400-xxx-xxxx; a mobile number has 11
_ID_CHARS: Final = 5  # the shortest QQ number; a WeChat account has 6

# Full-width digits are digits; the text keeps its length.
ASCII_DIGITS: Final = {0xFF10 + digit: 0x30 + digit for digit in range(10)}

# Every expression is linear: what repeats is anchored, or ends at what could begin a match. A group
# holds the account itself, where more than that tells what it is.
_PATTERNS: Final = {
    "emails": (
        _EMAIL,
        r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[a-z0-9-]{1,63}\.){1,5}[a-z]{2,24}(?![a-z0-9])",
    ),
    "phones": (
        _PHONE,
        r"(?<![\da-f.=/&%_+-])(?:(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}"
        r"|(?:\(0\d{2,3}\) ?|0\d{2,3}[- ])\d{7,8}"
        r"|[48]00-\d{3,4}-?\d{3,4})(?![\d.]*\d|[/&=%_])",  # not in a url or a GUID
    ),
    "qq_ids": (
        _CONTACT,
        r"(?:(?<![a-z0-9])qq|扣扣|企鹅)(?:交流)?(?:号码|号|群)?\s?[:：]?\s?([1-9]\d{4,10})(?!\d)",
    ),
    "wechat_ids": (
        _CONTACT,
        r"(?:微信|薇信|威信|v信|加v|加微|(?<![a-z])(?:vx|wx|weixin|wechat))(?:公众)?\s?"
        r"(?:号码?|账号|帐号|id)?\s?(?:[:：]\s?|(?<=[号码])[是为]?\s?)([a-z0-9][\w-]{5,19})",
    ),
    "html_tags": (
        _TAG,
        r"</?(?:a|abbr|article|aside|b|blockquote|body|br|button|center|code|dd|div|dl|dt|em|embed"
        r"|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|label|li|link|main"
        r"|meta|nav|ol|option|p|pre|script|section|select|small|span|strong|style|sub|sup|svg|table"
        r"|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|ul|video)(?:[\s/][^<>]*)?>|<!--",
    ),
    "html_entities": (
        _ENTITY,
        r"&(?:nbsp|lt|gt|amp|quot|apos|copy|reg|trade|hellip|mdash|ndash|middot|bull|[lr]dquo"
        r"|[lr]squo|[lr]aquo|times|deg|yen|ensp|emsp|thinsp|zwn?j|#\d{2,6}|#x[0-9a-f]{2,5});",
    ),
}
_COMPILED: Final = {
    name: (trigger, re.compile(pattern, re.ASCII | re.IGNORECASE))
    for name, (trigger, pattern) in _PATTERNS.items()
}


def _words(*words: str) -> CodePoints:
    return np.array([[*map(ord, word.ljust(3, "\0"))] for word in words], np.uint32)


# What opens a contact, in lower case.
_CONTACTS: Final = _words(
    "qq", "扣扣", "企鹅", "微信", "薇信", "威信", "vx", "v信", "wx", "加v", "加微", "wei", "wec"
)  # fmt: skip
# UTF-8 read as GBK: the replacement character; uninitialized memory; ， 。 and quotes.
_GBK: Final = _words("锟斤拷", "烫烫烫", "屯屯屯", "锛", "銆", "鈥")

# – — ‘ ’ “ ” • …: Windows-1252 has them among the bytes that continue a character.
_COMMON: Final = (0x2013, 0x2014, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2026)

# What a character can be part of; most are part of nothing.
_WORD, _DIGIT, _JOINS, _SIGN, _OPENS_CONTACT, _OPENS_GBK, _LEAD = (1 << bit for bit in range(7))


def markers(batch: PairBatch, side: Side, _: SignalSettings) -> Columns:
    """Counts of marks of web pages, advertisements and broken encodings."""
    texts = batch.texts(side)
    parts, bytes_shown = _parts(), _bytes_shown()
    triggers, urls, mojibake = _scan(
        texts.codepoints, texts.offsets, parts, bytes_shown, _CONTACTS, _GBK
    )
    columns: dict[str, npt.NDArray[np.int32]] = {"urls": urls, "mojibake": mojibake}
    for name, (trigger, _pattern) in _COMPILED.items():
        found = np.zeros(len(texts), np.int32)
        rows = np.flatnonzero(triggers & np.uint8(trigger))
        found[rows] = [len(find_marks(name, texts.text(int(row)))) for row in rows]
        columns[name] = found
    return columns


def may_hold_contacts(texts: Texts) -> Flags:
    """Say which texts can hold an e-mail address, a telephone number or a named account."""
    parts, bytes_shown = _parts(), _bytes_shown()
    triggers, _, _ = _scan(texts.codepoints, texts.offsets, parts, bytes_shown, _CONTACTS, _GBK)
    return np.asarray(triggers & (_EMAIL | _PHONE | _CONTACT) > 0, np.bool_)


def find_marks(name: str, text: str) -> list[tuple[int, int]]:
    """Find where each mark of a kind begins and ends; of a named account, the account alone."""
    matches = _COMPILED[name][1].finditer(text.translate(ASCII_DIGITS))
    return [match.span(match.lastindex or 0) for match in matches]


@cache
def _parts() -> npt.NDArray[np.uint8]:
    """Build what each code point can be part of."""
    parts = np.zeros(0x110000, np.uint8)
    digits = string.digits + "".join(map(chr, ASCII_DIGITS))
    for chars, part in (
        (string.ascii_letters + digits, _WORD),
        (digits, _DIGIT),
        (" ()+-", _JOINS),  # stand inside a telephone number
        ("/.@<&", _SIGN),
    ):
        parts[[ord(char) for char in chars]] |= np.uint8(part)
    openers = {chr(code) for code in _CONTACTS[:, 0]}
    parts[[ord(one) for char in openers for one in {char, char.upper()}]] |= np.uint8(
        _OPENS_CONTACT
    )
    parts[_GBK[:, 0]] |= np.uint8(_OPENS_GBK)
    parts[[0xC2, 0xC3, *range(0xE2, 0xF5)]] |= np.uint8(_LEAD)
    return parts


@cache
def _bytes_shown() -> npt.NDArray[np.uint8]:
    """Map code points to the byte that Latin-1 or Windows-1252 shows as them; 0 elsewhere."""
    table = np.zeros(0x2123, np.uint8)
    table[:256] = np.arange(256)
    for byte in range(0x80, 0xA0):
        code = ord(bytes([byte]).decode("cp1252", "replace"))
        if code < len(table):
            table[code] = byte
    return table


@kernel
def _scan(
    codepoints: CodePoints,
    offsets: Offsets,
    parts: npt.NDArray[np.uint8],
    bytes_shown: npt.NDArray[np.uint8],
    contacts: CodePoints,
    gbk: CodePoints,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Give the triggers, addresses and broken characters of each text."""
    rows = len(offsets) - 1
    triggers = np.zeros(rows, np.uint8)
    urls, mojibake = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    for row in range(rows):
        text = codepoints[offsets[row] : offsets[row + 1]]
        digits, run, longest_run, found = 0, 0, 0, 0
        for at in range(len(text)):
            part = parts[text[at]]
            if part == 0:
                digits, run = 0, 0
                continue
            run = run + 1 if part & _WORD else 0
            longest_run = max(longest_run, run)
            digits = digits + 1 if part & _DIGIT else digits if part & _JOINS else 0
            if digits >= _PHONE_DIGITS:
                found |= _PHONE
            if part & _SIGN:
                found |= _sign(text, at, parts)
                urls[row] += _opens_url(text, at, parts)
            if part & _OPENS_CONTACT and _begins(text, at, contacts):
                found |= _CONTACT
            if part & _LEAD:
                mojibake[row] += _is_broken(text, at, bytes_shown)
            if part & _OPENS_GBK:
                mojibake[row] += _begins(text, at, gbk)
        if longest_run < _ID_CHARS:
            found &= ~_CONTACT
        triggers[row] = found
    return triggers, urls, mojibake


@kernel
def _sign(text: CodePoints, at: int, parts: npt.NDArray[np.uint8]) -> int:
    """Say what a sign can open, from the characters beside it."""
    code = text[at]
    before = text[at - 1] if at else np.uint32(0)
    after = text[at + 1] if at + 1 < len(text) else np.uint32(0)
    if code == 64 and (parts[before] & _WORD or before == 45) and parts[after] & _WORD:  # a@b -@b
        return _EMAIL
    if code == 60 and (parts[after] & _WORD or after == 47 or after == 33):  # <a </ <!
        return _TAG
    if code == 38 and (parts[after] & _WORD or after == 35):  # &a &#
        return _ENTITY
    return 0


@kernel
def _opens_url(text: CodePoints, at: int, parts: npt.NDArray[np.uint8]) -> bool:
    """Say whether http://, https://, ftp:// or a www. of its own ends here, and more follows."""
    if at < 3 or at + 1 >= len(text):
        return False
    first, second, third = text[at - 3] | 32, text[at - 2], text[at - 1]
    if text[at] == 47:  # p://x s://x
        opens = (first == 112 or first == 115) and second == 58 and third == 47
        return opens and bool(text[at + 1] > 32)
    if text[at] != 46 or first != 119 or second | 32 != 119 or third | 32 != 119:
        return False
    before = text[at - 4] if at > 3 else np.uint32(0)
    alone = not (parts[before] & _WORD) and before != 46 and before != 47 and before != 64
    return alone and bool(parts[text[at + 1]] & _WORD)


@kernel
def _begins(text: CodePoints, at: int, words: CodePoints) -> bool:
    """Say whether one of some words of at most three letters, in lower case, begins here."""
    for word in words:
        step = 0
        while step < 3 and word[step] and at + step < len(text):
            code = text[at + step]
            if (code + 32 if 65 <= code <= 90 else code) != word[step]:
                break
            step += 1
        if step == 3 or word[step] == 0:
            return True
    return False


@kernel
def _is_broken(text: CodePoints, at: int, bytes_shown: npt.NDArray[np.uint8]) -> bool:
    """Say whether a lead byte of UTF-8 and its continuation bytes stand here, shown as characters.

    Of two-byte characters only those that begin with Â or Ã: É» can end a French quotation. What
    continues is not only punctuation that texts hold anyway: ì…… can end pinyin.
    """
    lead = text[at]
    size = 1 if lead <= 0xC3 else 2 if lead <= 0xEF else 3
    if at + size >= len(text):
        return False
    is_telling = False
    for code in text[at + 1 : at + 1 + size]:
        if code >= len(bytes_shown) or bytes_shown[code] & 0xC0 != 0x80:
            return False
        is_telling |= code not in _COMMON
    return bool(is_telling)


MARKERS: Final = Family(
    "markers",
    ("query", "passage"),
    (
        count("urls", "addresses with a scheme, or that begin with www.", "addresses"),
        count("emails", "e-mail addresses", "addresses"),
        count("phones", "Chinese mobile, landline and 400/800 numbers", "numbers"),
        count("qq_ids", "QQ numbers and groups that are named as such", "numbers"),
        count("wechat_ids", "WeChat accounts that are named as such", "accounts"),
        count("html_tags", "tags of HTML", "tags"),
        count("html_entities", "character references of HTML", "references"),
        count(
            "mojibake",
            "characters whose UTF-8 was read as GBK (锟斤拷), Latin-1 or Windows-1252 (Ã©, ï¼Œ)",
            "characters",
        ),
    ),
    markers,
    version=2,
)
