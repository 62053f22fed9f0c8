"""Masks: shares, what each position sees, whole words, and that nothing but the ids decides."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mining.token_batches import TokenizedTexts
from tests import model_folders
from trainer.masked_texts import Masker, MaskSettings
from trainer.model import EmbeddingModel, ModelSettings
from trainer.words import Words, number_words

HAN = "怎么学钢琴为这个句子生成表示问"
TEXTS = [HAN * 3 + " abc de " * 2, HAN, "ab", ""]
MAX_TOKENS = 60


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = model_folders.bge(tmp_path_factory.mktemp("model") / "bert")
    return EmbeddingModel(ModelSettings(str(folder)), 1, "float32", 64).tokenizer


def masker(tokenizer: Any, seed: int = 1, **settings: Any) -> Masker:
    return Masker(tokenizer, MAX_TOKENS, MaskSettings(**settings), seed)


def within(share: float, expected: float, count: int) -> bool:
    """Say whether a share of ``count`` draws is within four standard deviations."""
    return abs(share - expected) < 4 * (expected * (1 - expected) / count) ** 0.5


@pytest.mark.parametrize("share", [0.15, 0.3])
def test_each_token_is_hidden_from_the_encoder_by_its_share(tokenizer: Any, share: float) -> None:
    count = 600
    found = masker(tokenizer, encoder_share=share).mask(TEXTS[:1] * count, np.arange(count), 0)
    length = int(found.texts.lengths[0])
    hidden_NL = found.is_masked.reshape(count, length)
    assert not hidden_NL[:, [0, -1]].any()
    assert within(hidden_NL[:, 1:-1].mean(), share, count * (length - 2))
    # Every place alike, not only the mean.
    assert all(within(each, share, count) for each in hidden_NL[:, 1:-1].mean(axis=0))


def test_of_the_hidden_tokens_8_in_10_are_mask_and_1_in_10_as_it_was(tokenizer: Any) -> None:
    found = masker(tokenizer, encoder_share=0.5).mask(TEXTS[:1] * 400, np.arange(400), 0)
    hidden = found.is_masked
    was, seen = found.texts.tokens[hidden], found.seen[hidden]
    count = int(hidden.sum())
    assert within((seen == tokenizer.mask_token_id).mean(), 0.8, count)
    random_stays = 0.1 / len(tokenizer)
    assert within((seen == was).mean(), 0.1 + random_stays, count)
    assert (found.seen[~hidden] == found.texts.tokens[~hidden]).all()
    others = seen[(seen != was) & (seen != tokenizer.mask_token_id)]
    assert len(np.unique(others)) > 0.9 * len(tokenizer)


@pytest.mark.parametrize("words", ["none", "continuations"])
@pytest.mark.parametrize("share", [0.5, 0.7])
def test_a_position_sees_the_first_never_itself_and_of_others_its_share(
    tokenizer: Any, share: float, words: str
) -> None:
    count = 300
    found = masker(tokenizer, decoder_share=share, words=words)
    masked = found.mask([*TEXTS[:2] * (count // 2)], np.arange(count), 0)
    visible_NQL = masked.visibility()
    longest = int(masked.texts.lengths.max())
    assert visible_NQL.shape == (count, longest - 1, longest)
    assert visible_NQL[:, :, 0].all()
    places = np.arange(1, longest)
    assert not visible_NQL[:, places - 1, places].any()
    for row, length in enumerate(masked.texts.lengths[:2]):
        assert not visible_NQL[row::2, :, length:].any()  # padding
        own_QL = np.eye(longest - 1, longest, 1, dtype=bool)[: length - 1]
        others_QL = ~own_QL & (np.arange(longest) > 0) & (np.arange(longest) < length)
        seen = visible_NQL[row::2, : length - 1][:, others_QL]
        assert within(seen.mean(), 1 - share, seen.size // (1 if words == "none" else 3))
        if words == "none":
            assert all(within(each, 1 - share, count // 2) for each in seen.mean(axis=0))


def test_each_position_has_a_context_of_its_own(tokenizer: Any) -> None:
    masked = masker(tokenizer).mask(TEXTS[:1], np.array([7]), 0)
    visible_QL = masked.visibility()[0]
    assert len(np.unique(visible_QL, axis=0)) == len(visible_QL)
    # Draws of neighbors have nothing to do with each other.
    agreement = (visible_QL[:-1, 1:] == visible_QL[1:, 1:]).mean()
    assert 0.45 < agreement < 0.55


def test_masks_depend_on_seed_step_and_passage_alone(tokenizer: Any) -> None:
    rows = np.array([3, 5, 9, 11])
    first = masker(tokenizer).mask(TEXTS, rows, 4)
    order = np.array([2, 0])
    again = masker(tokenizer).mask([TEXTS[i] for i in order], rows[order], 4)
    taken = first.take(order)
    for name in ("seen", "is_masked", "is_content", "words", "keys"):
        np.testing.assert_array_equal(getattr(again, name), getattr(taken, name), name)
    np.testing.assert_array_equal(again.visibility(), taken.visibility())
    for other in (
        masker(tokenizer, seed=2).mask(TEXTS, rows, 4),
        masker(tokenizer).mask(TEXTS, rows, 5),
        masker(tokenizer).mask(TEXTS, rows + 1, 4),
    ):
        assert (other.is_masked != first.is_masked).any()
        assert (other.visibility() != first.visibility()).any()


def whole(values_T: npt.NDArray[Any], words_T: npt.NDArray[np.int64], lengths: Any) -> bool:
    """Say whether all tokens of each word have one value."""
    texts = np.repeat(np.arange(len(lengths)), lengths)
    keys = texts * 1000 + words_T
    return all(len(set(values_T[keys == key].tolist())) == 1 for key in np.unique(keys))


def test_pieces_of_a_word_are_hidden_together(tokenizer: Any) -> None:
    text = "abcd efg " + HAN
    masked = masker(tokenizer, words="continuations").mask([text] * 8, np.arange(8), 0)
    pieces = tokenizer.convert_ids_to_tokens(masked.texts.tokens[: masked.texts.lengths[0]])
    numbers = masked.words[: len(pieces)]
    for place, piece in enumerate(pieces[1:], start=1):
        assert (numbers[place] == numbers[place - 1]) == piece.startswith("##")
    assert "##b" in pieces
    assert whole(masked.is_masked, masked.words, masked.texts.lengths)
    visible = masked.visibility()
    for n in range(2):
        for i in range(1, len(pieces)):
            row = visible[n, i - 1].copy()
            row[i] = row[i - 1] if numbers[i] == numbers[i - 1] else row[(i + 1) % len(pieces)]
            others = np.delete(np.arange(1, len(pieces)), i - 1)
            assert whole(row[others], numbers[others], [len(others)])


def test_jieba_finds_the_words_of_chinese(tokenizer: Any) -> None:
    jieba = pytest.importorskip("jieba")
    text = "怎么学钢琴 abc"
    tokens, begins = Words("jieba", tokenizer, MAX_TOKENS).tokenize(["", text, "这个"])
    numbers = number_words(begins, tokens.lengths)
    pieces = tokenizer.convert_ids_to_tokens(tokens.tokens)
    found: list[list[str]] = []
    for piece, begin in zip(pieces[3:-5], begins[3:-5], strict=True):
        if begin:
            found.append([])
        found[-1].append(piece.removeprefix("##"))
    assert ["".join(word) for word in found] == [w for w in jieba.cut(text) if w.strip()]
    assert "钢琴" in ["".join(word) for word in found]
    assert begins[[0, 1, 2, -5, -4, -1]].all()  # texts begin anew, and special tokens stand alone
    assert numbers[tokens.lengths[0]] == 0


def test_words_that_cannot_be_found_are_refused(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"words.*'jeba'.*jieba"):
        MaskSettings(words="jeba")
    with pytest.raises(ValueError, match="decoder_share is 1"):
        MaskSettings(decoder_share=1)
    folder = model_folders.xlm_roberta(tmp_path / "xlm")
    other = EmbeddingModel(ModelSettings(str(folder)), 1, "float32", 64).tokenizer
    with pytest.raises(ValueError, match="marks none; set words to 'jieba' or 'none'"):
        Words("continuations", other, MAX_TOKENS)
    with pytest.raises(ValueError, match=r"has no \[MASK\]"):
        Masker(other, MAX_TOKENS, MaskSettings(), 1)
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ValueError, match=r"pip install 'lode-engine\[words\]'"):
        Words("jieba", tokenizer, MAX_TOKENS)


def test_words_are_numbered_from_0_in_every_text() -> None:
    texts = TokenizedTexts.of([[5, 6, 7], [], [8, 9]])
    begins = np.array([True, False, True, True, True])
    assert number_words(begins, texts.lengths).tolist() == [0, 0, 1, 0, 1]
