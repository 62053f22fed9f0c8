"""Numbers that name a person or an account: resident identity cards and bank cards.

A kernel says which texts hold enough digits; those few are searched by an expression, and what it
finds must pass the checksum. Of order numbers and serials one in ten passes Luhn's, so a bank card
must also begin and be as long as those of a known issuer; an identity card has a province and a
birthday. A number stands alone: it is no part of a longer one, a word, a decimal or an address.
"""

import re
from datetime import date
from typing import Final

import numpy as np

from curation.signals.batch import PairBatch, Side
from curation.signals.markers import ASCII_DIGITS
from curation.signals.registry import Columns, Family, count
from curation.signals.settings import SignalSettings
from curation.texts import CodePoints, Flags, Offsets, Texts, kernel

# Different digits of a card: laughter, 2333333333333333, passes Luhn's check as a Mastercard. Of
# random numbers one in two million has fewer.
_FEWEST_KINDS: Final = 4
_FEWEST_DIGITS: Final = 15  # of a bank card; an identity card has 17 and a digit or X
# In one piece, or in the groups that people write: 6 8 4 of an identity card, fours of a bank card.
_NUMBER: Final = re.compile(
    r"(?<![\w./=&%+-])"
    r"(?:\d{17}[\dx]|\d{15,19}|\d{6} \d{8} \d{3}[\dx]"
    r"|(?<!\d{4} )\d{4}(?P<joint>[ -])\d{4}(?:(?P=joint)\d{4}){2}(?:(?P=joint)\d{1,3})?(?! ?\d))"
    r"(?![\w/=&%]|[.-]\w)",
    re.ASCII | re.IGNORECASE,
)
# GB/T 2260: the provinces; 81 to 83 begin the residence permits of Hong Kong, Macau and Taiwan.
_PROVINCES: Final = re.compile("1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3]")
_BIRTH_YEARS: Final = range(1900, 2050)  # no clock: the signal of a text never changes
# GB 11643-1999: weights of the first 17 digits; the last character by their sum modulo 11.
_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS: Final = "10X98765432"
# What the cards of an issuer begin with, and how many digits they have.
_ISSUERS: Final = re.compile(
    r"62\d{14,17}"  # UnionPay
    r"|(?:95588|95599|436742|456351|601382)\d+(?<=^.{19})"  # older debit cards of Chinese banks
    r"|4\d{15}"  # Visa
    r"|(?:5[1-5]|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d+(?<=^.{16})"  # Mastercard
    r"|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
    r"|3[47]\d{13}",  # American Express
    re.ASCII,
)


def personal_numbers(batch: PairBatch, side: Side, _: SignalSettings) -> Columns:
    """Numbers that name a person or an account, with a right checksum."""
    texts = batch.texts(side)
    counted = {name: np.zeros(len(texts), np.int32) for name in ("id_cards", "bank_cards")}
    for row in np.flatnonzero(may_hold_numbers(texts)):
        for name, _start, _end in find_numbers(texts.text(int(row))):
            counted[name][row] += 1
    return counted


def find_numbers(text: str) -> list[tuple[str, int, int]]:
    """Find the numbers of a text: what each is, where it begins and ends."""
    found = []
    for match in _NUMBER.finditer(text.translate(ASCII_DIGITS)):
        number = match[0].replace(" ", "").replace("-", "").upper()
        if is_id_card(number):
            found.append(("id_cards", *match.span()))
        elif is_bank_card(number):
            found.append(("bank_cards", *match.span()))
    return found


def may_hold_numbers(texts: Texts) -> Flags:
    """Say which texts have digits enough; no other needs find_numbers."""
    return _hold_digits(texts.codepoints, texts.offsets)


def is_id_card(number: str) -> bool:
    """Say whether 18 characters have a province, a birthday and the check character of GB 11643."""
    if len(number) != 18 or not _PROVINCES.match(number) or not _is_birthday(number[6:14]):
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, number, strict=False))
    return number[17] == _CHECKS[total % 11]


def is_bank_card(number: str) -> bool:
    """Say whether digits begin and are as many as an issuer's, and pass Luhn's check."""
    if not _ISSUERS.fullmatch(number) or len(set(number)) < _FEWEST_KINDS:
        return False
    doubled = (int(digit) * 2 for digit in number[-2::-2])
    return (sum(map(int, number[-1::-2])) + sum(n - 9 * (n > 9) for n in doubled)) % 10 == 0


def _is_birthday(digits: str) -> bool:
    year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:])
    if year not in _BIRTH_YEARS:
        return False
    try:
        date(year, month, day)
    except ValueError:  # no such day
        return False
    return True


@kernel
def _hold_digits(codepoints: CodePoints, offsets: Offsets) -> Flags:
    """Say which texts hold digits enough in a row; a space or hyphen may stand between two."""
    enough = np.zeros(len(offsets) - 1, np.bool_)
    for row in range(len(offsets) - 1):
        digits, was_digit = 0, False
        for code in codepoints[offsets[row] : offsets[row + 1]]:
            if 48 <= code <= 57 or 0xFF10 <= code <= 0xFF19:
                digits, was_digit = digits + 1, True
                if digits >= _FEWEST_DIGITS:
                    enough[row] = True
                    break
            elif was_digit and (code == 32 or code == 45):
                was_digit = False
            else:
                digits, was_digit = 0, False
    return enough


PERSONAL: Final = Family(
    "personal",
    ("query", "passage"),
    (
        count(
            "id_cards",
            "resident identity cards of China with a province, a birthday and a right check digit",
            "numbers",
            "GB 11643-1999",
        ),
        count(
            "bank_cards",
            "bank cards of a known issuer with a right check digit",
            "numbers",
            "ISO/IEC 7812: Luhn",
        ),
    ),
    personal_numbers,
)
