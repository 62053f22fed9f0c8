"""What a signal is, and how the asked signals of a batch are computed.

A signal is a measured column of a pair: query_…, passage_… or pair_…. A family is a function that
measures several of them at once and says, beside it, what each one means. To add a signal, write
the function and name its family in curation/signals/__init__.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.signals.batch import PairBatch, Side
from curation.signals.settings import SignalSettings, digest

Columns = Mapping[str, npt.NDArray[Any] | pa.Array]


@dataclass(frozen=True)
class Measure:
    """What is measured, on whichever side: the documentation of a signal, in one place."""

    name: str
    about: str
    unit: str
    type: pa.DataType
    low: float | None = None
    high: float | None = None
    source: str = "Lode"


@dataclass(frozen=True)
class Signal:
    """A measured column of the signals table."""

    name: str
    side: Side
    family: str
    measure: Measure
    version: str

    @property
    def type(self) -> pa.DataType:
        """Give the Arrow type of the column."""
        return self.measure.type


def _no_settings(_: SignalSettings) -> tuple[object, ...]:
    return ()


@dataclass(frozen=True)
class Family:
    """Signals that one function measures together.

    `compute` gives a column per measure, by the measure's name. A numpy column becomes null where
    the side is null; a function whose nulls say more gives an Arrow array.
    """

    name: str
    sides: tuple[Side, ...]
    measures: tuple[Measure, ...]
    compute: Callable[[PairBatch, Side, SignalSettings], Columns]
    version: int = 1  # raise it when the values change
    depends: Callable[[SignalSettings], tuple[object, ...]] = _no_settings


def share(name: str, about: str, source: str = "Lode") -> Measure:
    """Describe a share of something, 0 to 1."""
    return Measure(name, about, "share", pa.float32(), 0, 1, source)


def count(name: str, about: str, unit: str, source: str = "Lode") -> Measure:
    """Describe a count."""
    return Measure(name, about, unit, pa.int32(), 0, None, source)


def claim(name: str, about: str, source: str = "Lode") -> Measure:
    """Describe something that is true or false."""
    return Measure(name, about, "true or false", pa.bool_(), None, None, source)


def ratio(
    part: npt.NDArray[Any], whole: npt.NDArray[Any] | float, empty: float = 0.0
) -> npt.NDArray[np.float32]:
    """Divide; where there is nothing to divide by, the share is `empty`."""
    whole = np.broadcast_to(whole, part.shape)
    filled = np.full(part.shape, empty, np.float32)
    np.divide(part, whole, out=filled, where=whole != 0, casting="same_kind")
    return filled


def registry(
    families: Sequence[Family], settings: SignalSettings | None = None
) -> dict[str, Signal]:
    """List the signals of families in their order, by name; ValueError on a name used twice."""
    settings = settings or SignalSettings()
    signals: dict[str, Signal] = {}
    for family in families:
        version = _version(family, settings)
        for side in family.sides:
            for measure in family.measures:
                name = f"{side}_{measure.name}"
                if name in signals:
                    raise ValueError(f"two signals are called {name}: rename one of them")
                signals[name] = Signal(name, side, family.name, measure, version)
    return signals


def _version(family: Family, settings: SignalSettings) -> str:
    depends = family.depends(settings)
    return f"{family.version}-{digest(*depends)}" if depends else str(family.version)


def compute(
    rows: pa.RecordBatch | pa.Table | PairBatch,
    names: Sequence[str],
    settings: SignalSettings,
    families: Sequence[Family],
) -> pa.Table:
    """Compute the named signals: pair_id and a column each; families not named cost nothing."""
    _refuse_unknown(names, registry_names(families))
    batch = rows if isinstance(rows, PairBatch) else PairBatch(rows)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for family in families:
        for side in family.sides:
            wanted = {f"{side}_{one.name}": one for one in family.measures}
            wanted = {name: measure for name, measure in wanted.items() if name in names}
            if wanted:
                measured = family.compute(batch, side, settings)
                for name, measure in wanted.items():
                    values = measured[measure.name]
                    columns[name] = _arrow(name, values, measure.type, batch, side)
    ids = batch.column("pair_id")
    return pa.table({"pair_id": ids, **{name: columns[name] for name in names}})


def _arrow(
    name: str, values: npt.NDArray[Any] | pa.Array, kind: pa.DataType, batch: PairBatch, side: Side
) -> pa.Array | pa.ChunkedArray:
    if len(values) != len(batch):
        raise ValueError(f"{name} has {len(values)} values for {len(batch)} pairs")
    if isinstance(values, np.ndarray):
        return pa.array(values.astype(kind.to_pandas_dtype()), kind, mask=~batch.valid(side))
    return values if values.type == kind else values.cast(kind)


def registry_names(families: Iterable[Family]) -> list[str]:
    """List the names of all signals of families."""
    return [
        f"{side}_{measure.name}"
        for family in families
        for side in family.sides
        for measure in family.measures
    ]


def _refuse_unknown(names: Sequence[str], known: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"a signal is asked for twice in {list(names)}: name each once")
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]}?" if close else "`lode signals` lists them"
            raise ValueError(f"there is no signal {name!r}: {hint}")


def catalog_table(signals: Mapping[str, Signal]) -> pa.Table:
    """Give a row per signal: what `lode signals` prints."""
    return pa.Table.from_pylist(
        [
            {
                "signal": signal.name,
                "side": signal.side,
                "family": signal.family,
                "unit": signal.measure.unit,
                "low": signal.measure.low,
                "high": signal.measure.high,
                "type": str(signal.type),
                "about": signal.measure.about,
                "source": signal.measure.source,
                "version": signal.version,
            }
            for signal in signals.values()
        ],
        schema=_CATALOG,
    )


_CATALOG = pa.schema(
    [
        ("signal", pa.string()),
        ("side", pa.string()),
        ("family", pa.string()),
        ("unit", pa.string()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("type", pa.string()),
        ("about", pa.string()),
        ("source", pa.string()),
        ("version", pa.string()),
    ]
)


def markdown(families: Sequence[Family]) -> str:
    """Write the reference of signals, a section per family."""
    lines = [
        "# Signals",
        "",
        "A signal is a measured column of a pair. Its name begins with the side it is measured on:",
        "`query_`, `passage_` (the pair's positive) or `pair_`. A `query_` or `pair_` signal is",
        "null where the pair has no query. A share of an empty text is 0. Characters are Unicode",
        "code points. This page is generated from the registry; `lode signals` prints the same.",
    ]
    for family in families:
        sides = ", ".join(f"`{side}_`" for side in family.sides)
        about = (family.compute.__doc__ or "").strip().splitlines()[0]
        lines += [
            "",
            f"## {family.name}",
            "",
            f"{about} Sides: {sides}. Version {family.version}.",
            "",
        ]
        lines += [
            "| signal | meaning | unit | range | type | source |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_markdown_row(measure) for measure in family.measures]
    return "\n".join(lines) + "\n"


def _markdown_row(measure: Measure) -> str:
    bounds = ["" if bound is None else f"{bound:g}" for bound in (measure.low, measure.high)]
    span = " to ".join(bounds) if bounds[1] else f"from {bounds[0]}" if bounds[0] else ""
    cells = [
        f"`{measure.name}`",
        measure.about,
        measure.unit,
        span,
        str(measure.type),
        measure.source,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
