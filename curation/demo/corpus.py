"""The demo corpus: clean rows and planted defects, written as files that Lode reads."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from curation.demo.choices import Choices
from curation.demo.defects import (
    BLOCKED_DOMAINS,
    DAMAGES,
    MIN_TWIN_CHARS,
    REPEATS,
    Damage,
    Original,
    traditional,
)
from curation.demo.passages import SOURCES, Author, Pair, Source

DEFAULT_ROWS: Final = 20_000
DEFAULT_SEED: Final = 20_240_815
BLOCK_LIST: Final = "blocked-domains.txt"
RECIPE: Final = "sources.toml"

# Shares of a source's rows. Together 13 % of the corpus, each kind at least 60 of 20,000 rows.
DEFECTS: Final[Mapping[str, float]] = {
    "exact_duplicate": 0.030,
    "near_duplicate": 0.028,
    "wrong_language": 0.012,
    "mojibake": 0.009,
    "advertisement": 0.012,
    "boilerplate": 0.009,
    "repetition": 0.008,
    "too_short": 0.009,
    "echo": 0.007,
    "html_leftovers": 0.008,
    "abnormal_characters": 0.007,
    "separators": 0.006,
    "empty_positive": 0.001,
}
# Damage to the file's bytes, which only lines of text can carry.
BROKEN_LINES: Final[Mapping[str, float]] = {"bad_json": 0.0012, "broken_utf8": 0.0012}
DEFECTS_OF: Final[Mapping[str, Mapping[str, float]]] = {
    "news": {**DEFECTS, **BROKEN_LINES},
    "qa": DEFECTS,
    "web": {**DEFECTS, **BROKEN_LINES, "blocked_domain": 0.040},
    "instruction": DEFECTS,
    "sts": {"exact_duplicate": 0.030, "mojibake": 0.009},
    "retrieval": {"near_duplicate": 0.020, "advertisement": 0.010},
}
QUARANTINED: Final = ("bad_json", "broken_utf8", "empty_positive")
# One clean row in twenty is in traditional characters: another script is not a defect.
TRADITIONAL_SHARE: Final = 0.05

SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("form", pa.string()),
        ("task", pa.string()),
        ("query", pa.string()),
        ("positive", pa.string()),
        ("negatives", pa.list_(pa.string())),
        ("label", pa.float64()),
        ("url", pa.string()),
        ("defect", pa.string()),  # null: clean
        ("detail", pa.string()),  # how the defect was made, or how a clean row is special
        ("twin", pa.string()),  # id of the row that a duplicate repeats
    ]
)

# Columns that one source has; all others are in every file.
OWN_COLUMNS: Final = {"negatives": "retrieval", "label": "sts", "url": "web"}
TARGETS: Final = ("query", "positive", "negatives", "label", "url")

Row = dict[str, Any]


@dataclass(frozen=True)
class DemoCorpus:
    """The files of a demo corpus and how many rows of each defect were planted in them."""

    folder: Path
    files: tuple[Path, ...]
    rows: int
    planted: Mapping[str, int]
    block_list: Path
    recipe: Path  # [sources] and [signals] of a recipe that reads the files

    @property
    def clean(self) -> int:
        """Count the rows without a defect."""
        return self.rows - sum(self.planted.values())


def generate(folder: Path | str, rows: int = DEFAULT_ROWS, seed: int = DEFAULT_SEED) -> DemoCorpus:
    """Write the corpus into a folder: the same bytes for the same rows and seed.

    A row knows its defect (``meta.defect``); one that cannot be read is only counted.
    """
    if rows < len(SOURCES):
        raise ValueError(f"rows is {rows}: at least {len(SOURCES)}, one for each source")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    planted: Counter[str] = Counter()
    files: list[Path] = []
    total = 0
    for source, count in _row_counts(rows):
        written = list(source_rows(source, count, seed))
        planted.update(row["defect"] for row in written if row["defect"] is not None)
        files.append(WRITERS[source.name](folder, source.name, written))
        total += len(written)
    block_list, recipe = folder / BLOCK_LIST, folder / RECIPE
    block_list.write_text("".join(f"{domain}\n" for domain in BLOCKED_DOMAINS), encoding="utf-8")
    recipe.write_text(_recipe(files), encoding="utf-8")
    counted = dict(sorted(planted.items()))
    return DemoCorpus(folder, tuple(files), total, counted, block_list, recipe)


def source_rows(source: Source, count: int, seed: int) -> Iterator[Row]:
    """Make the rows of one source, in order; a repeat always comes after what it repeats."""
    author = Author(source, seed)
    originals: list[Original] = []
    for number in range(count):
        choices = Choices.of(seed, "defect", source.name, number)
        pair = author.write(number)
        url = _url(Choices.of(seed, "url", source.name, number)) if source.name == "web" else None
        defect = _defect(source, choices.share("kind"))
        damage = _damage(defect, pair, originals, choices)
        if damage is None:
            defect = None
            damage = _clean(pair, choices)
            if damage.detail != "traditional":
                originals.append(Original(number, pair, url))
        yield _row(source, number, damage, defect, damage.url or url)


def _defect(source: Source, share: float) -> str | None:
    """Return the defect whose share of [0, 1) holds the given share; None for a clean row."""
    for defect, width in DEFECTS_OF[source.name].items():
        if share < width:
            return defect
        share -= width
    return None


def _damage(
    defect: str | None, pair: Pair, originals: Sequence[Original], choices: Choices
) -> Damage | None:
    """Damage a pair; None where the row is clean, or no earlier row can be repeated yet."""
    if defect is None:
        return None
    if defect in REPEATS:
        original = _original(defect, originals, choices)
        return None if original is None else REPEATS[defect](original, choices)
    if defect in DAMAGES:
        return DAMAGES[defect](pair, choices)
    assert defect in QUARANTINED, defect
    empty = choices.pick(("", " ", "\n\t", "　"), "empty")
    return Damage(Pair(pair.query, empty) if defect == "empty_positive" else pair, "unreadable")


def _original(defect: str, originals: Sequence[Original], choices: Choices) -> Original | None:
    """Choose an earlier clean row; one that leaves room for an edit if it is to be edited."""
    shortest = MIN_TWIN_CHARS if defect == "near_duplicate" else 0
    long_enough = [one for one in originals[-2000:] if len(one.pair.positive) >= shortest]
    return choices.pick(long_enough, "original") if long_enough else None


def _clean(pair: Pair, choices: Choices) -> Damage:
    if choices.share("script") >= TRADITIONAL_SHARE:
        return Damage(pair, "")
    other = Pair(
        traditional(pair.query),
        traditional(pair.positive),
        tuple(map(traditional, pair.negatives)),
        pair.label,
    )
    return Damage(other, "traditional")


def _row(source: Source, number: int, damage: Damage, defect: str | None, url: str | None) -> Row:
    row = {
        "id": _row_id(source, number),
        "source": source.name,
        "form": source.form,
        "task": source.task,
        "query": damage.pair.query,
        "positive": damage.pair.positive,
        "negatives": list(damage.pair.negatives) or None,
        "label": damage.pair.label,
        "url": url,
        "defect": defect,
        "detail": damage.detail or None,
        "twin": None if damage.twin is None else _row_id(source, damage.twin),
    }
    return {column: row[column] for column in _columns(source.name)}


def _columns(source: str) -> list[str]:
    return [name for name in SCHEMA.names if OWN_COLUMNS.get(name, source) == source]


def _row_id(source: Source, number: int) -> str:
    return f"{source.name}-{number:06d}"


def _row_counts(rows: int) -> list[tuple[Source, int]]:
    """Split the rows by the sources' shares; the first source takes what rounding leaves."""
    counts = [max(1, int(rows * source.share)) for source in SOURCES]
    counts[0] += rows - sum(counts)
    return list(zip(SOURCES, counts, strict=True))


def _url(choices: Choices) -> str:
    part = choices.pick(("shop", "stay", "learn", "docs", "guide"), "part")
    site = choices.pick(("river", "maple", "lantern", "harbor", "willow", "orchid"), "site")
    number, page = choices.below(90, "number"), choices.below(10**6, "page")
    return f"https://{part}.{site}{number}.example/{page}.html"


def _write_jsonl(folder: Path, name: str, rows: Sequence[Row]) -> Path:
    path = folder / f"{name}.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        for row in rows:
            stream.write(_line(row))
    return path


def _line(row: Row) -> bytes:
    """Write a row as a line of JSON: a broken line is cut in two, or holds a byte UTF-8 lacks."""
    line = json.dumps(row, ensure_ascii=False).encode()
    if row["defect"] == "bad_json":
        line = line[: len(line) // 2].decode(errors="ignore").encode()
    elif row["defect"] == "broken_utf8":
        place = line.index(row["positive"][:1].encode()) + 1
        line = line[:place] + b"\xff" + line[place:]
    return line + b"\n"


def _write_parquet(folder: Path, name: str, rows: Sequence[Row]) -> Path:
    path = folder / f"{name}.parquet"
    schema = pa.schema([SCHEMA.field(column) for column in _columns(name)])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")
    return path


WRITERS: Final[Mapping[str, Callable[[Path, str, Sequence[Row]], Path]]] = {
    "news": _write_jsonl,
    "qa": _write_parquet,
    "web": _write_jsonl,
    "instruction": _write_parquet,
    "sts": _write_parquet,
    "retrieval": _write_jsonl,
}


def _recipe(files: Sequence[Path]) -> str:
    """Write the recipe's tables that say how the files are read."""
    lines = [
        "# How the demo corpus is read. What is not mapped goes to meta: id, defect, detail, twin.",
        "[signals]",
        f'domain_lists = ["{BLOCK_LIST}"]',
    ]
    for source, path in zip(SOURCES, files, strict=True):
        mapped = [name for name in _columns(source.name) if name in TARGETS]
        lines += [
            "",
            f"[sources.{source.name}]",
            f'paths = ["{path.name}"]',
            f'form = "{source.form}"',
            f'task = "{source.task}"',
            'language = "zh"',
            'license = "Apache-2.0"',
            "fields = { " + ", ".join(f'{name} = "{name}"' for name in mapped) + " }",
        ]
    return "\n".join(lines) + "\n"
