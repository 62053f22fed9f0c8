"""What is wrong with rows: noted while a chunk is read, then turned into rows for quarantine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.reading.arrow_rows import RAW_MAX_BYTES

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reject:
    """A source row that makes no pair, and why; ``raw`` is cut at RAW_MAX_BYTES."""

    row: int
    reason: str
    raw: bytes


class Faults:
    """What is wrong with which rows of a chunk; a row can have several faults."""

    def __init__(self) -> None:
        self.reasons: dict[int, dict[str, None]] = {}

    def __contains__(self, index: int) -> bool:
        return index in self.reasons

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, index: int, reason: str) -> None:
        """Note a fault; the same one of the same row only once."""
        self.reasons.setdefault(int(index), {})[reason] = None

    def sound(self, size: int) -> npt.NDArray[np.bool_]:
        """Mark the rows without a fault."""
        mask = np.ones(size, np.bool_)
        mask[list(self.reasons)] = False
        return mask

    def indexes(self) -> list[int]:
        """List the faulty rows in order."""
        return sorted(self.reasons)

    def rejects(self, rows: Rows, raws: Sequence[bytes]) -> list[Reject]:
        """Turn faults into rejects; ``raws`` are the bytes of the faulty rows, in order."""
        return [
            Reject(int(rows[at]), reason, raw[:RAW_MAX_BYTES])
            for at, raw in zip(self.indexes(), raws, strict=True)
            for reason in self.reasons[at]
        ]


def to_strings(values: Sequence[Any], target: str, faults: Faults) -> pa.Array:
    """Make a text column of Python values; what is not a text is a fault, and null."""
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowException, UnicodeEncodeError):
        return pa.array(
            [_text(at, one, target, faults) for at, one in enumerate(values)], pa.string()
        )


def _text(index: int, value: Any, target: str, faults: Faults) -> str | None:
    if value is None:
        return None
    fault = text_type_fault(value)
    if fault is None:
        return str(value)
    faults.add(index, f"{target} {fault}")
    return None


def text_type_fault(value: Any) -> str | None:
    """Say why a value is no text, or None."""
    if not isinstance(value, str):
        return f"is {JSON_NAMES.get(type(value), f'a {type(value).__name__}')}, not a text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate"
    return None


JSON_NAMES: Final[dict[type, str]] = {
    bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object",
    str: "a text", type(None): "null",
}  # fmt: skip
