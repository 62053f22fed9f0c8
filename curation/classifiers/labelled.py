"""Labelled tables: texts that someone, or a language model, has put a label on.

Which rows are held out is a draw of each text's key: equal texts stand on one side, and no row's
side depends on the others.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from catalog.draws import draw
from curation.texts import Flags, Texts, decode, normalize, text_keys

Names = npt.NDArray[np.str_]
_JSON_ENDINGS: Final = (".jsonl", ".ndjson", ".json")
_CSV_ENDINGS: Final = (".csv", ".tsv")
_COMPRESSIONS: Final = (".gz", ".zst", ".bz2")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; `split` is the table's own division, if it has one."""

    text: str = "text"
    label: str = "label"
    split: str | None = None

    @property
    def names(self) -> list[str]:
        """List the columns that are read."""
        return [self.text, self.label, *([self.split] if self.split else [])]


@dataclass(frozen=True)
class Split:
    """Which rows are held out: those of one value of the split column, or a share by draw."""

    share: float = 0.1
    seed: int = 0
    value: str | None = None

    def __post_init__(self) -> None:
        """Check the share; ValueError says what is allowed."""
        if not 0 < self.share < 1:
            raise ValueError(f"the share held out is {self.share}: between 0 and 1, such as 0.1")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows of a labelled table, none of them null."""

    texts: Texts
    labels: Names
    splits: Names | None
    left_out: int  # rows without a text or without a label

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.labels)

    def take(self, chosen: Flags) -> "Labelled":
        """Keep some rows."""
        strings = pa.array([self.texts.text(int(row)) for row in np.flatnonzero(chosen)])
        splits = None if self.splits is None else self.splits[chosen]
        return Labelled(decode(strings.cast(pa.string())), self.labels[chosen], splits, 0)

    def keys(self) -> npt.NDArray[np.int64]:
        """Give 64 bits of each text's key: equal for texts that a reader calls the same."""
        keys = text_keys(normalize(self.texts)).storage.to_pylist()
        return np.frombuffer(b"".join(key[:8] for key in keys), "<i8").astype(np.int64)


def read_labelled(path: Path, columns: Columns | None = None) -> Labelled:
    """Read a labelled table: Parquet, JSON lines, CSV or TSV; ValueError says what is wrong."""
    columns = columns or Columns()
    table = _read(path)
    for name in columns.names:
        if name not in table.column_names:
            has = ", ".join(table.column_names)
            raise ValueError(f"{path} has no column {name!r}: it has {has}; name the right one")
    table = table.select(columns.names)
    whole = pc.and_(table[columns.text].is_valid(), table[columns.label].is_valid())
    kept = table.filter(whole)
    if not pa.types.is_string(kept[columns.text].type):
        raise ValueError(f"{path}: {columns.text} is {kept[columns.text].type}, not text")
    if kept.num_rows == 0:
        raise ValueError(f"{path} has no row with both {columns.text} and {columns.label}")
    splits = _strings(kept[columns.split]) if columns.split else None
    return Labelled(
        decode(kept[columns.text].combine_chunks()),
        _strings(kept[columns.label]),
        splits,
        table.num_rows - kept.num_rows,
    )


def hold_out(rows: Labelled, split: Split) -> tuple[Labelled, Labelled]:
    """Divide rows into those to learn from and those held out; no text is in both."""
    keys = rows.keys()
    if split.value is None:
        held = draw(split.seed, "held-out texts", keys) < np.uint64(split.share * 2.0**64)
        return rows.take(~held), rows.take(held)
    assert rows.splits is not None
    held = rows.splits == split.value
    if not held.any():
        found = ", ".join(sorted(set(rows.splits.tolist()))[:10])
        raise ValueError(f"no row is of the split {split.value!r}: there are {found}")
    return rows.take(~held & ~np.isin(keys, keys[held])), rows.take(held)


def _read(path: Path) -> pa.Table:
    ending = path.with_suffix("").suffix if path.suffix in _COMPRESSIONS else path.suffix
    if not path.is_file():
        raise ValueError(f"there is no file {path}; name a Parquet, JSON lines, CSV or TSV file")
    try:
        if ending == ".parquet":
            return pq.read_table(path)
        with pa.input_stream(str(path), compression="detect") as stream:
            if ending in _JSON_ENDINGS:
                return pyarrow.json.read_json(stream)
            if ending in _CSV_ENDINGS:
                delimiter = "\t" if ending == ".tsv" else ","
                parsing = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
                return pyarrow.csv.read_csv(stream, parse_options=parsing)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    raise ValueError(
        f"{path} ends in {path.suffix!r}: a labelled table ends in .parquet, .jsonl, .csv or .tsv "
        "(the last three also with .gz or .zst)"
    )


def _strings(column: pa.ChunkedArray) -> Names:
    found: Names = np.array(column.cast(pa.string()).to_pylist(), np.str_)
    return found
