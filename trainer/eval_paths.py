"""Where evaluation sets are: given one by one, or as a benchmark that names a list of them.

A benchmark is a TOML file with paths below one folder; ``cmteb-local`` comes with Lode.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

SHIPPED: Final = Path(__file__).parent / "benchmarks"
SECTION: Final = "benchmark"


@dataclass(frozen=True)
class SetPaths:
    """Files or folders of sets, by what is measured with them.

    ``sts`` are graded or labelled pairs of sentences, ``retrieval`` judged collections,
    ``classification`` and ``clustering`` labelled texts.
    """

    sts: Sequence[Path] = ()
    retrieval: Sequence[Path] = ()
    classification: Sequence[Path] = ()
    clustering: Sequence[Path] = ()

    @property
    def all(self) -> list[Path]:
        """Every path once, in the order of the kinds."""
        return list(dict.fromkeys(path for kind in KINDS for path in getattr(self, kind)))

    def __add__(self, other: "SetPaths") -> "SetPaths":
        """Join the sets of both."""
        return SetPaths(*((*getattr(self, kind), *getattr(other, kind)) for kind in KINDS))


KINDS: Final = tuple(field.name for field in fields(SetPaths))


def shipped_benchmarks() -> list[str]:
    """Name the benchmarks that come with Lode."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def read_benchmark(benchmark: str, data: Path) -> SetPaths:
    """Find the sets of a benchmark below a folder.

    ``benchmark`` is the name of a shipped one or a TOML file. ValueError where a set is not there:
    a mean over some of the sets would be another benchmark's.
    """
    shipped = SHIPPED / f"{benchmark}.toml"
    path = shipped if shipped.is_file() else Path(benchmark)
    if not path.is_file():
        raise ValueError(
            f"there is no benchmark {benchmark!r}; give {', '.join(shipped_benchmarks())}, or a "
            "TOML file that names sets"
        )
    section = _read_section(path)
    found = {kind: [data / each for each in section.get(kind, ())] for kind in KINDS}
    missing = [place for places in found.values() for place in places if not place.exists()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {sum(map(len, found.values()))} sets of {benchmark} are not below "
            f"{data}, such as {missing[0]}; name the folder that holds them with --data"
        )
    return SetPaths(**found)


def _read_section(path: Path) -> Mapping[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as TOML: {error}") from None
    section = content.get(SECTION)
    if not isinstance(section, dict) or not any(section.get(kind) for kind in KINDS):
        raise ValueError(f"{path} names no set: [{SECTION}] has lists {', '.join(KINDS)} of paths")
    for key, value in section.items():
        is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if key not in ("name", "title") and (key not in KINDS or not is_list):
            raise ValueError(
                f"{path}: [{SECTION}] {key} = {value!r}; allowed are name, title, and lists "
                f"{', '.join(KINDS)} of paths"
            )
    return section
