"""What is to be read: files, patterns and folders, and the settings of each."""

import glob
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.location import S3
from curation.reading import (
    Layout,
    SourceFileError,
    SourceSettings,
    explain,
    plan_layout,
    source_files,
)
from curation.reading.arrow_files import dataset_files
from curation.reading.formats import SOURCE_SUFFIXES
from curation.reading.objects import ObjectPath, find_objects
from curation.reading.settings import stem_of
from curation.reading.source_path import SourcePath, size_of

if TYPE_CHECKING:  # it imports what workers that read files do not need
    from curation.recipes import Recipe

PATHS = "paths"
# A line for each of more files would hide what was chosen instead of saying it.
MAX_NAMES = 3
# Looking at an object is mostly waiting for S3.
PLANNED_AT_ONCE = 16


@dataclass(frozen=True)
class Source:
    """A file, or a folder that is read as one, and how it is read."""

    path: SourcePath
    settings: SourceSettings

    @cached_property
    def layout(self) -> Layout:
        """Decide how it is read; SourceFileError or ValueError where that is not clear."""
        return plan_layout(self.path, self.settings)

    @property
    def bytes(self) -> int:
        """Count the bytes that are read."""
        return sum(map(size_of, self.parts()))

    def parts(self) -> Sequence[SourcePath]:
        """List the files that the source consists of."""
        if isinstance(self.path, Path) and self.path.is_dir():
            return dataset_files(self.path)
        return [self.path]

    def stamps(self) -> list[tuple[int, int | str]]:
        """Return what is another one when a file was written to: its size, and time or ETag."""
        return [
            (part.bytes, part.etag)
            if isinstance(part, ObjectPath)
            else (part.stat().st_size, part.stat().st_mtime_ns)
            for part in self.parts()
        ]


def find_sources(
    files: Iterable[str | Path] = (),
    maps: Iterable[str] = (),
    sets: Iterable[str] = (),
    recipe: "Recipe | Mapping[str, Mapping[str, Any]] | None" = None,
) -> list[Source]:
    """List what a recipe's ``[sources]`` and a command name, each file once.

    A file that is named after a source of the recipe is read as the recipe says; ``maps`` and
    ``sets`` say it for all.
    """
    tables = (recipe or {}) if recipe is None or isinstance(recipe, Mapping) else recipe.sources
    maps, sets = list(maps), list(sets)
    settings = {
        name: SourceSettings.from_assignments(maps, sets, _table_settings(name, table))
        for name, table in tables.items()
    }
    default = SourceSettings.from_assignments(maps, sets)
    found = [
        Source(path, settings[name])
        for name, table in tables.items()
        for pattern in table.get(PATHS, ())
        for path in expand(pattern)
    ]
    for pattern in files:
        found += [Source(path, settings.get(stem_of(path), default)) for path in expand(pattern)]
    if not found:
        raise ValueError(
            "there is nothing to read: give files, or a recipe whose [sources] have paths"
        )
    return _once(found)


def describe_sources(sources: Iterable[Source]) -> list[str]:
    """Say how files would be read, one line for all that are read alike."""
    alike: dict[str, list[str]] = {}
    for source in with_layouts(sources):
        alike.setdefault(explain(source.layout), []).append(source.path.name)
    return [f"{_names(names)}: {explanation}" for explanation, names in alike.items()]


def with_layouts(sources: Iterable[Source]) -> list[Source]:
    """Look at the beginnings of those that are on S3, many at a time; the first fault raises."""
    found = list(sources)
    remote = [source for source in found if isinstance(source.path, ObjectPath)]
    with ThreadPoolExecutor(PLANNED_AT_ONCE) as pool:
        list(pool.map(attrgetter("layout"), remote))
    return found


def expand(
    pattern: str | Path, suffixes: Collection[str] = SOURCE_SUFFIXES
) -> Sequence[SourcePath]:
    """List the source files that a path, a folder or a pattern stands for, here or on S3.

    A folder of S3 stands for the objects below it that end in one of ``suffixes``.
    """
    if str(pattern).startswith(S3):
        return find_objects(str(pattern), suffixes)
    path = Path(pattern).expanduser()
    paths = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    if not paths:
        what = "matches no file" if glob.has_magic(str(path)) else "does not exist"
        raise SourceFileError(path, what, "check the path")
    return [file.resolve() for one in paths for file in source_files(one)]


def _table_settings(name: str, table: Mapping[str, Any]) -> SourceSettings:
    document = {key: value for key, value in table.items() if key != PATHS}
    try:
        return SourceSettings.from_document({"source": name, **document})
    except (TypeError, ValueError) as error:
        raise ValueError(f"[sources.{name}]: {error}") from error


def _once(found: list[Source]) -> list[Source]:
    by_path: dict[SourcePath, Source] = {}
    for source in found:
        if by_path.setdefault(source.path, source).settings != source.settings:
            raise ValueError(
                f"{source.path} is named twice with different settings; name it once, or ingest it "
                "under one source"
            )
    return list(by_path.values())


def _names(names: list[str]) -> str:
    if len(names) <= MAX_NAMES:
        return ", ".join(names)
    return f"{names[0]} … {names[-1]} ({len(names)} files)"
