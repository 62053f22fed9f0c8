"""Words of lists, all found in one walk over each side.

A list is a text file with a word a line, or a word, a tab and its category; # begins a comment, and
! a word that is no hit: of overlapping words the one that begins first counts, then the longest, so
that !性能 and !理性 keep 性 from being found in them.
Words are matched in the text as its key sees it, so width, script, case, spaces and punctuation do
not hide one: 加 微-信 is 加微信. A word of Latin letters must also stand alone in the text itself,
and be parted there as the list parts it: the key of "these xylophones" has no spaces. Lists of a
user go beside the small shipped one.
"""

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from curation.signals.batch import PairBatch, Side
from curation.signals.registry import Columns, Family, count
from curation.signals.settings import SignalSettings
from curation.signals.trie import WordTrie
from curation.texts import Texts, encode, find_gaps, from_strings, normalize

SHIPPED: Final = Path(__file__).parent.parent / "assets" / "words.tsv"
# Words of a user's list without a category, or with one of his own, count as listed.
CATEGORIES: Final = ("advertisement", "boilerplate", "fraud", "gambling", "pornography", "listed")
OTHER: Final = CATEGORIES.index("listed")
NO_HIT: Final = -1


class WordLists:
    """The words of some lists as one trie, and the category of each."""

    def __init__(self, words: dict[str, int], written: dict[str, str]) -> None:
        """Take words as keys see them: the number of their category, and how they are written."""
        self.categories = np.array(list(words.values()), np.int64)
        self.is_latin = np.array([word.isascii() for word in words], np.bool_)
        keys = from_strings(words)
        gaps = find_gaps(from_strings(written[word] for word in words), keys)
        self.trie = WordTrie(keys, self.is_latin, gaps)

    def find(self, normalized: Texts, texts: Texts | None = None) -> npt.NDArray[np.int64]:
        """Find the longest words in normalised texts, without overlaps: rows of (word, text).

        Where the texts as they are written are given too, Latin words must stand alone there.
        """
        if texts is None or not self.is_latin.any():
            return self.trie.find(normalized)
        return self.trie.find(normalized, find_gaps(texts, normalized))


def words(batch: PairBatch, side: Side, settings: SignalSettings) -> Columns:
    """Words of the lists, found in the normalised text."""
    lists = load_lists(settings.word_lists)
    found = lists.find(batch.normalized(side), batch.texts(side))
    categories = lists.categories[found[:, 0]]
    places = found[:, 1] * len(CATEGORIES) + categories
    size = len(batch) * len(CATEGORIES)
    counted = np.bincount(places[categories != NO_HIT], minlength=size).astype(np.int32)
    return {
        f"{name}_words": counted[number :: len(CATEGORIES)]
        for number, name in enumerate(CATEGORIES)
    }


@lru_cache(maxsize=4)
def load_lists(paths: tuple[Path, ...]) -> WordLists:
    """Read the shipped list and a user's; the first list that has a word decides its category."""
    found: dict[str, int] = {}
    written: dict[str, str] = {}
    for path in (SHIPPED, *paths):
        entries = [_entry(line) for line in _lines(path)]
        keys = encode(normalize(from_strings([word for word, _ in entries]))).to_pylist()
        for key, (word, category) in zip(keys, entries, strict=True):
            if key:
                found.setdefault(key, category)
                written.setdefault(key, word)
    return WordLists(found, written)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"word list {path} is not UTF-8 ({error}); convert it first") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _entry(line: str) -> tuple[str, int]:
    word, _, category = line.partition("\t")
    if word.startswith("!"):
        return word[1:].strip(), NO_HIT
    name = category.strip()
    return word.strip(), CATEGORIES.index(name) if name in CATEGORIES else OTHER


def _depends(settings: SignalSettings) -> tuple[object, ...]:
    return (SHIPPED, *settings.word_lists)


_ABOUT: Final = {
    "advertisement": "words of advertisement",
    "boilerplate": "words of web pages around the text: 展开全文, 点击阅读 …",
    "fraud": "words of fraud and illegal services",
    "gambling": "words of gambling",
    "pornography": "words of pornography",
    "listed": "words of a user's lists that have no category of the above",
}
WORDS: Final = Family(
    "words",
    ("query", "passage"),
    tuple(count(f"{n}_words", _ABOUT[n], "words", "InternLM2: word block") for n in CATEGORIES),
    words,
    version=4,
    depends=_depends,
)
