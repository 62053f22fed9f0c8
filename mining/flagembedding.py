"""FlagEmbedding's ``hn_mine`` with Lode's encoder and search: the same candidates of every row.

For every row of a file, negatives are drawn among the passages at some ranks of its query's list,
without its positives and the query's own text. The draw is a hash of (seed, query, passage): a run
can be repeated. Vectors are kept beside the output while the work goes on: a killed run goes on.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import xxhash

from catalog.draws import draw
from catalog.errors import CatalogError
from catalog.records import sync_file, writing
from mining.encoder import SIDES, Encoder, EncoderSettings, Side, Vectors
from mining.search import NO_PASSAGE, search_blocks
from mining.search_plan import SearchSettings

CHUNK: Final = 16_384
PURPOSE: Final = "sample negatives"
Row = dict[str, Any]


@dataclass(frozen=True)
class HnMineSettings:
    """What ``hn_mine`` is told; ranks count from 0, and the last one is not included."""

    input_file: Path
    output_file: Path
    candidate_pool: Path | None = None
    ranks: tuple[int, int] = (10, 210)
    negative_number: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings; ValueError says what is allowed."""
        start, end = self.ranks
        if not 0 <= start < end:
            raise ValueError(f"range_for_sampling is {start}-{end}; ranks are 0 <= start < end")
        if self.negative_number < 1:
            raise ValueError(f"negative_number is {self.negative_number}; it must be at least 1")
        if self.output_file.resolve() == self.input_file.resolve():
            raise ValueError("input_file and output_file are the same; give another output_file")


def hn_mine(
    settings: HnMineSettings,
    encoder: EncoderSettings,
    search: SearchSettings | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> int:
    """Write every row with new negatives, and return how many rows there are.

    The corpus is the ``candidate_pool`` (JSON lines with ``text``), or without one all ``pos`` and
    ``neg`` of the file. A row with too few candidates is filled up with drawn passages, as there.
    ``progress`` is told ("query" or "passage", texts that have a vector) and ("search", rows).
    CatalogError for a line that is no such row, with its number.
    """
    rows = list(_read_rows(settings.input_file))
    corpus = _corpus(rows, settings.candidate_pool)
    queries = list(dict.fromkeys(row["query"] for row in rows))
    folder = settings.output_file.with_name(f".{settings.output_file.name}.vectors")
    model = Encoder.load(encoder)
    vectors = {
        side: _encode(model, texts, side, folder, progress)
        for side, texts in zip(SIDES, (queries, corpus), strict=True)
    }
    lists = np.full((len(queries), settings.ranks[1]), NO_PASSAGE)
    depth = min(settings.ranks[1], len(corpus))
    for found in search_blocks(vectors["query"], vectors["passage"], depth, search):
        lists[found.first : found.first + len(found.rows), :depth] = found.rows
        if progress is not None:
            progress("search", found.first + len(found.rows))
    place = {query: number for number, query in enumerate(queries)}
    aside = settings.output_file.with_name(f".{settings.output_file.name}.tmp")
    keys = _text_keys(corpus)
    with writing(settings.output_file.parent):
        with aside.open("wb") as stream:
            for row in rows:
                ranked = lists[place[row["query"]], settings.ranks[0] :]
                row["neg"] = _negatives(row, ranked, corpus, keys, settings)
                stream.write(orjson.dumps(row) + b"\n")
        sync_file(aside)
        aside.rename(settings.output_file)
    shutil.rmtree(folder, ignore_errors=True)
    return len(rows)


def _negatives(
    row: Row, ranked: np.ndarray, corpus: Sequence[str], keys: np.ndarray, settings: HnMineSettings
) -> list[str]:
    """Draw among the ranked passages that are neither the query nor one of its positives."""
    forbidden = {row["query"], *row["pos"]}
    found = np.array(
        [p for p in ranked.tolist() if p != NO_PASSAGE and corpus[p] not in forbidden], np.int64
    )
    n = settings.negative_number
    if len(found) > n:
        found = np.sort(_drawn_order(row, found, keys, settings.seed)[:n])
        # In the order of their ranks, as they came.
        rank = {p: i for i, p in enumerate(ranked.tolist())}
        found = np.array(sorted(found.tolist(), key=rank.__getitem__))
    chosen = [corpus[p] for p in found.tolist()]
    if len(chosen) < n:
        taken = {*chosen, *forbidden}
        order = _drawn_order(row, np.arange(len(corpus)), keys, settings.seed)
        chosen += [corpus[p] for p in order.tolist() if corpus[p] not in taken][: n - len(chosen)]
    return chosen


def _drawn_order(row: Row, passages: np.ndarray, keys: np.ndarray, seed: int) -> np.ndarray:
    """Order passages by a hash of (seed, query, passage): other rows and texts change nothing."""
    query = _text_keys([row["query"]])
    draws = draw(seed, PURPOSE, np.broadcast_to(query, len(passages)), keys[passages])
    return passages[np.argsort(draws, kind="stable")]


def _text_keys(texts: Sequence[str]) -> np.ndarray:
    hashes = [xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) for text in texts]
    return np.array(hashes, np.uint64).view(np.int64)


def _corpus(rows: Sequence[Row], pool: Path | None) -> list[str]:
    if pool is None:
        texts = (text for row in rows for text in (*row["pos"], *row.get("neg", ())))
    else:
        texts = (line["text"] for line in _read_lines(pool, _pool_fault))
    found = list(dict.fromkeys(texts))
    if not found:
        raise CatalogError(f"{pool or 'the input file'} holds no passage to mine")
    return found


def _read_rows(path: Path) -> Iterator[Row]:
    yield from _read_lines(path, _row_fault)


def _read_lines(path: Path, fault: Callable[[Any], str | None]) -> Iterator[Row]:
    if not path.is_file():
        raise CatalogError(f"{path} is no file")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise CatalogError(f"{path}, line {number}: {error}") from None
            wrong = fault(row)
            if wrong:
                raise CatalogError(f"{path}, line {number}: {wrong}")
            yield row


def _row_fault(row: Any) -> str | None:
    if not isinstance(row, dict) or not isinstance(row.get("query"), str):
        return 'a row is an object with "query" and "pos"'
    for key in ("pos", "neg"):
        texts = row.get(key, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return f'"{key}" is a list of texts'
    return None if row.get("pos") else '"pos" is a list of at least one text'


def _pool_fault(line: Any) -> str | None:
    is_text = isinstance(line, dict) and isinstance(line.get("text"), str)
    return None if is_text else 'a passage is an object with "text"'


def _encode(
    model: Encoder,
    texts: Sequence[str],
    side: Side,
    folder: Path,
    progress: Callable[[str, int], None] | None,
) -> Vectors:
    """Encode in chunks that are kept on disk, named by what they hold; read what is there."""
    vectors = np.empty((len(texts), model.width), np.float32)
    key = model.spec(side).key.encode()
    for first in range(0, len(texts), CHUNK):
        chunk = texts[first : first + CHUNK]
        digest = hashlib.sha256(key)
        for text in chunk:
            digest.update(b"\0" + text.encode("utf-8", "surrogatepass"))
        path = folder / f"{side}-{digest.hexdigest()[:32]}.npy"
        if path.exists():
            found = np.load(path, allow_pickle=False)
        else:
            found = model.encode(chunk, side)
            _keep(path, found)
        vectors[first : first + len(chunk)] = found
        if progress is not None:
            progress(side, first + len(chunk))
    return vectors


def _keep(path: Path, vectors: Vectors) -> None:
    aside = path.with_suffix(".tmp")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            np.save(stream, vectors, allow_pickle=False)
        sync_file(aside)
        aside.rename(path)
