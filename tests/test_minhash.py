import numpy as np
import pytest
from datasketch import MinHash

from curation.minhash import MinHashSettings, band_keys
from curation.texts import Texts, from_strings

FROZEN = ["0x867e3ec9f8f92978", "0x4ed7aa4b5276b8df", "0xbe6fc33e28ec7e88"]


def random_text(rng: np.random.Generator, chars: int) -> str:
    return "".join(chr(code) for code in rng.integers(0x4E00, 0x9000, chars))


def edited(rng: np.random.Generator, text: str, edits: int) -> str:
    """Insert characters: what follows moves to other places of the kernel's blocks."""
    for place in rng.integers(0, len(text), edits):
        text = text[:place] + random_text(rng, 1) + text[place:]
    return text


def shingles(text: str, chars: int = 5) -> set[str]:
    return {text[at : at + chars] for at in range(len(text) - chars + 1)}


def jaccard(a: str, b: str) -> float:
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def minima(texts: list[str], num_perm: int, seed: int = 1) -> np.ndarray:
    """One row per band: each key stands for one minimum."""
    keys, _ = band_keys(from_strings(texts), MinHashSettings(5, num_perm, 1, seed))
    return keys


def pairs_of_texts(count: int, chars: int, edits: int, seed: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    texts = [random_text(rng, chars) for _ in range(count)]
    return [(text, edited(rng, text, edits)) for text in texts]


@pytest.mark.parametrize("edits", [1, 4, 12])
def test_the_share_of_equal_minima_estimates_jaccard_as_well_as_datasketch_does(
    edits: int,
) -> None:
    num_perm, pairs = 256, pairs_of_texts(30, 200, edits, seed=edits)
    ours, theirs = [], []
    for a, b in pairs:
        exact = jaccard(a, b)
        keys = minima([a, b], num_perm)
        ours.append((keys[0] == keys[1]).mean() - exact)
        sketches = [MinHash(num_perm), MinHash(num_perm)]
        for sketch, text in zip(sketches, (a, b), strict=True):
            sketch.update_batch([gram.encode() for gram in shingles(text)])
        theirs.append(sketches[0].jaccard(sketches[1]) - exact)
    one_estimate = np.sqrt(exact * (1 - exact) / num_perm)
    for errors in (np.array(ours), np.array(theirs)):
        assert abs(errors.mean()) < 4 * one_estimate / np.sqrt(len(pairs))
        assert errors.std() < 1.5 * one_estimate


@pytest.mark.parametrize("edits", [2, 5])
def test_a_band_key_is_shared_with_probability_jaccard_to_the_rows(edits: int) -> None:
    rows, bands, pairs = 4, 28, pairs_of_texts(150, 120, edits, seed=10 + edits)
    settings = MinHashSettings(5, bands, rows)
    keys, _ = band_keys(from_strings([text for pair in pairs for text in pair]), settings)
    shared = (keys[0::2] == keys[1::2]).mean()
    expected = np.mean([jaccard(a, b) ** rows for a, b in pairs])
    deviation = np.sqrt(expected * (1 - expected) / (bands * len(pairs)))
    # The bands of one pair share its texts, so pairs vary more than single draws.
    assert abs(shared - expected) < 5 * deviation


def test_seeds_draw_independent_permutations() -> None:
    a, b = pairs_of_texts(1, 150, 6, seed=3)[0]
    estimates = [
        (keys[0] == keys[1]).mean() for keys in (minima([a, b], 64, seed) for seed in range(60))
    ]
    exact = jaccard(a, b)
    assert abs(np.mean(estimates) - exact) < 4 * np.sqrt(exact * (1 - exact) / (64 * 60))


def test_keys_of_a_text_do_not_depend_on_the_texts_around_it() -> None:
    rng = np.random.default_rng(8)
    texts = [random_text(rng, int(chars)) for chars in rng.integers(0, 3000, 60)]
    order = rng.permutation(60)
    keys, valid = band_keys(from_strings(texts), MinHashSettings())
    shuffled, _ = band_keys(from_strings([texts[row] for row in order]), MinHashSettings())
    alone = [band_keys(from_strings([text]), MinHashSettings())[0][0] for text in texts]
    np.testing.assert_array_equal(shuffled, keys[order])
    np.testing.assert_array_equal(np.array(alone), keys)
    assert valid.sum() == sum(len(text) >= 5 for text in texts)


def test_keys_stay_what_they_are() -> None:
    """Keys are stored: a change of any constant makes those of a catalog worthless."""
    keys, _ = band_keys(from_strings(["敏捷的棕色狐狸跳过了懒狗"]), MinHashSettings())
    assert [hex(key) for key in keys[0, :3]] == FROZEN


def test_repeated_ngrams_change_nothing() -> None:
    once, again = "甲乙丙丁戊己庚", "甲乙丙丁戊己庚" + "甲乙丙丁戊己庚" * 300
    wrapped = "甲乙丙丁戊己庚" * 2
    keys, _ = band_keys(from_strings([once, wrapped, again]), MinHashSettings())
    assert not (keys[0] == keys[1]).all()
    np.testing.assert_array_equal(keys[1], keys[2])


def test_bands_and_positions_do_not_mix() -> None:
    keys, _ = band_keys(from_strings(["甲乙丙丁戊己庚辛"]), MinHashSettings())
    assert len(set(keys[0].tolist())) == 14


def test_short_and_null_texts_have_no_keys() -> None:
    texts = from_strings(["", "四个字啊", "五个字啊啊", None])
    keys, valid = band_keys(texts, MinHashSettings())
    assert valid.tolist() == [False, False, True, False]
    assert keys[2].all()
    assert not keys[[0, 1, 3]].any()


def test_no_texts_have_no_keys() -> None:
    empty = Texts(np.empty(0, np.uint32), np.zeros(1, np.int64), np.empty(0, np.bool_))
    keys, valid = band_keys(empty, MinHashSettings())
    assert keys.shape == (0, 14)
    assert len(valid) == 0


def test_datasketch_splits_the_permutations_for_a_threshold() -> None:
    assert MinHashSettings.for_threshold(0.8) == MinHashSettings(5, 14, 8)
    loose = MinHashSettings.for_threshold(0.6)
    assert loose.rows_per_band < 8
    assert loose.num_perm <= 112
    assert loose.share_probability(0.6) > 0.9


def test_the_probability_to_share_a_key_is_the_formula_of_banding() -> None:
    settings = MinHashSettings()
    assert settings.share_probability(0.8) == pytest.approx(0.9235, abs=1e-4)
    assert settings.share_probability(0.72) == pytest.approx(0.65, abs=0.01)


@pytest.mark.parametrize("name", ["ngram_chars", "bands", "rows_per_band"])
def test_settings_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        MinHashSettings(**{name: 0})


def test_thresholds_that_are_no_similarity_are_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold is 1\.5"):
        MinHashSettings.for_threshold(1.5)
