"""The language of a text: a fastText model where there are letters enough, the script elsewhere."""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.signals import lid
from curation.signals.batch import PairBatch, Side
from curation.signals.characters import HAN, HANGUL, KANA, LETTER, properties
from curation.signals.language_model import bundled_model, read_model
from curation.signals.registry import Columns, Family, Measure
from curation.signals.settings import SignalSettings
from curation.texts import CodePoints, Offsets, kernel

_METHODS: Final = ("model", "script")
# What scripts tell. Latin and Cyrillic letters do not name one language.
_CHINESE, _JAPANESE, _KOREAN, _UNKNOWN = range(4)
_BY_SCRIPT: Final = ("zh", "ja", "ko", "und")


def language(batch: PairBatch, side: Side, settings: SignalSettings) -> Columns:
    """Language of the text's first 1,000 characters (a setting)."""
    texts = batch.texts(side)
    model = _model()
    letters = _letters(texts.codepoints, texts.offsets, properties(), settings.language_max_chars)
    enough = letters[:, 0] >= settings.language_min_letters
    labels, scores = lid.predict(model, texts, enough, settings.language_max_chars)
    labels[~enough] = len(model.labels) + _by_script(letters)[~enough]
    names = pa.array([*model.labels, *_BY_SCRIPT])
    nothing = ~texts.valid
    return {
        "language": _named(labels, names, nothing),
        "language_score": pa.array(scores, pa.float32(), mask=~enough),
        "language_method": _named(np.where(enough, 0, 1), pa.array(_METHODS), nothing),
    }


@cache
def _model() -> lid.LanguageModel:
    return read_model(bundled_model())


def _named(
    numbers: npt.NDArray[np.integer], names: pa.Array, mask: npt.NDArray[np.bool_]
) -> pa.Array:
    indices = pa.array(numbers, pa.int32(), mask=mask)
    return pa.DictionaryArray.from_arrays(indices, names).cast(pa.string())


def _by_script(letters: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Name the language of few letters; one の in a Chinese name does not make it Japanese."""
    all_letters, han, kana, hangul = letters.T
    claims = [
        all_letters == 0,
        3 * kana >= all_letters,
        2 * hangul >= all_letters,
        2 * han >= all_letters,
    ]
    return np.select(claims, [_UNKNOWN, _JAPANESE, _KOREAN, _CHINESE], _UNKNOWN)


@kernel
def _letters(
    codepoints: CodePoints, offsets: Offsets, kinds: CodePoints, max_chars: int
) -> npt.NDArray[np.int64]:
    """Count letters, and those of Han, Kana and Hangul, among the first characters."""
    counts = np.zeros((len(offsets) - 1, 4), np.int64)
    for row in range(len(offsets) - 1):
        end = min(offsets[row + 1], offsets[row] + max_chars)
        for code in codepoints[offsets[row] : end]:
            kind = kinds[code]
            counts[row, 0] += (kind & LETTER) != 0
            counts[row, 1] += (kind & HAN) != 0
            counts[row, 2] += (kind & KANA) != 0
            counts[row, 3] += (kind & HANGUL) != 0
    return counts


def _depends(settings: SignalSettings) -> tuple[object, ...]:
    return bundled_model(), settings.language_max_chars, settings.language_min_letters


_MODEL_SOURCE: Final = "fastText lid.176.ftz"
LANGUAGE: Final = Family(
    "language",
    ("query", "passage"),
    (
        Measure(
            "language",
            "ISO 639 code; texts of fewer than 10 letters (a setting), for which the model is "
            "unreliable, are zh, ja or ko by their script, or und",
            "code",
            pa.string(),
            source=_MODEL_SOURCE,
        ),
        Measure(
            "language_score",
            "probability of the language; null where the script decided",
            "probability",
            pa.float32(),
            0,
            1,
            "fastText lid.176.ftz; FineWeb-2 cmn_Hani (GlotLID): at least .692",
        ),
        Measure("language_method", "what named the language: model or script", "name", pa.string()),
    ),
    language,
    depends=_depends,
)
