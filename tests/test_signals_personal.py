import random

import numpy as np
import pyarrow as pa
import pytest

from curation.signals.batch import PairBatch
from curation.signals.personal import is_bank_card, is_id_card, personal_numbers
from curation.signals.settings import SignalSettings

# Made up: an example that is printed everywhere, and a number with a right last digit.
ID, CARD = "11010519491231002X", "6222023456789016"


def numbers(text: str) -> dict[str, int]:
    """Count the numbers of a passage; what is 0 is left out."""
    rows = pa.table({"pair_id": [1], "positive": [text]})
    found = personal_numbers(PairBatch(rows), "passage", SignalSettings())
    return {name: int(column[0]) for name, column in found.items() if column[0]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"身份证号{ID}，卡号：{CARD}。", {"id_cards": 1, "bank_cards": 1}),
        (f"{ID.lower()} {ID}", {"id_cards": 2}),
        ("110105 19491231 002X", {"id_cards": 1}),
        ("１１０１０５１９４９１２３１００２Ｘ", {}),  # a full-width X ends no number
        ("６２２２０２３４５６７８９０１６", {"bank_cards": 1}),
        ("6222 0234 5678 9016, 6222-0234-5678-9016.", {"bank_cards": 2}),
        (f"电话 13812345678 {CARD} 13812345678", {"bank_cards": 1}),
        ("6222 0234 5678 9016 1234", {}),  # a table of numbers
        ("1234 6222 0234 5678 9016", {}),
        ("6222-0234 5678-9016", {}),
        (f"1{ID} {ID}1 1{CARD} {CARD}1", {}),  # part of a longer number
        (f"a{CARD} {CARD}b _{ID} 0.{CARD} {CARD}.5", {}),
        (f"http://a.cn/{CARD}?id={ID}&card={CARD}.html", {}),
        ("订单号 6222023456789017、2023110512345678901", {}),  # fail the checksum, have no issuer
        ("2333333333333333 哈哈", {}),  # laughter passes Luhn's check
        ("4111111111111111", {}),  # a number for tests: two kinds of digits
        ("5309767782441346, 374245455400126", {"bank_cards": 1}),
        ("9" * 14, {}),
        ("", {}),
    ],
)
def test_numbers_of_written_out_texts(text: str, expected: dict[str, int]) -> None:
    assert numbers(text) == expected
    assert numbers(f"前{text}后") == expected  # not because it ends the text


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (ID, ""),
        ("110105194912310029", "check digit"),
        ("X1010519491231002X", "not digits"),
        ("10010519491231002X", "no such province"),
        ("11010519490230002X", "30 February"),
        ("11010519491331002X", "month 13"),
    ],
)
def test_an_identity_card_has_province_birthday_and_check_digit(number: str, why: str) -> None:
    assert is_id_card(number) == (not why)


def test_a_wrong_province_or_day_is_refused_even_with_a_right_check_digit() -> None:
    weights = [2 ** (17 - place) % 11 for place in range(17)]  # GB 11643 writes them as powers

    def complete(digits: str) -> str:
        total = sum(w * int(digit) for w, digit in zip(weights, digits, strict=True))
        return digits + "0123456789X"[(12 - total % 11) % 11]

    assert complete(ID[:17]) == ID
    assert is_id_card(complete("31010120000229123"))
    assert not is_id_card(complete("31010119000229123"))  # 1900 was no leap year
    assert not is_id_card(complete("38010120000229123"))
    assert not is_id_card(complete("31010120500101123"))


def test_every_slip_of_one_digit_fails_the_checksum() -> None:
    for number, check in ((ID, is_id_card), (CARD, is_bank_card)):
        assert check(number)
        for place, digit in enumerate(number):
            for other in "0123456789":
                if other != digit:
                    assert not check(number[:place] + other + number[place + 1 :])


def test_of_random_numbers_of_a_card_s_length_one_in_ten_passes_with_an_issuer_only() -> None:
    draw = random.Random(7)
    with_issuer = sum(is_bank_card(f"62{draw.randrange(10**14):014d}") for _ in range(5_000))
    assert 400 < with_issuer < 600
    assert not any(is_bank_card(f"9{draw.randrange(10**15):015d}") for _ in range(500))
    assert not any(is_id_card(f"9{draw.randrange(10**17):017d}") for _ in range(500))


def test_both_sides_are_counted_and_a_missing_query_is_nothing() -> None:
    rows = pa.table({"query": [ID, None], "positive": ["无", CARD]})
    batch, settings = PairBatch(rows), SignalSettings()
    assert np.array_equal(personal_numbers(batch, "query", settings)["id_cards"], [1, 0])
    assert np.array_equal(personal_numbers(batch, "passage", settings)["bank_cards"], [0, 1])
