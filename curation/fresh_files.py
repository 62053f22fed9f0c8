"""Which files an ingest has to read: not those whose content the catalog holds already."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from catalog import duck
from catalog.errors import CatalogError
from catalog.files import known_files
from catalog.lake import Catalog
from catalog.records import to_json
from curation.reading import Layout, SourceSettings
from curation.reading.objects import ObjectPath
from curation.sources import Source, with_layouts

KIND: Final = "ingest"
HASH_BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class FreshFile:
    """A file that will be read: ``replaced`` are the numbers of what it takes the place of."""

    layout: Layout
    bytes: int
    sha256: str
    replaced: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        """Return where the file is, as the catalog names it."""
        return str(self.layout.path)

    @property
    def document(self) -> dict[str, Any]:
        """Return the settings it is read with, as plain data."""
        return self.layout.settings.as_document()


def select_fresh(
    catalog: Catalog, sources: Sequence[Source], replace: bool, workers: int
) -> tuple[list[FreshFile], list[str]]:
    """Decide which files are read, and how; every file is looked at before the first is read."""
    layouts = [source.layout for source in with_layouts(sources)]
    with ThreadPoolExecutor(workers) as pool:
        hashes = list(pool.map(hash_source, sources))
    with catalog.reader() as connection:
        known = {file.path: file for file in _known(connection)}
    changes = {
        str(layout.path): _change(known.get(str(layout.path)), sha256, layout.settings)
        for layout, sha256 in zip(layouts, hashes, strict=True)
    }
    _check_changes({path: change for path, change in changes.items() if change}, replace)
    held = {file.sha256 for path, file in known.items() if not changes.get(path)}
    fresh: list[FreshFile] = []
    skipped = []
    for source, layout, sha256 in zip(sources, layouts, hashes, strict=True):
        before = known.get(str(source.path))
        if sha256 in held:
            if changes[str(layout.path)]:
                raise CatalogError(
                    f"{source.path} now has the content of another file in the catalog; leave it "
                    "out, or restore it"
                )
            skipped.append(str(source.path))
            continue
        held.add(sha256)
        replaced = (before.file_id,) if before else ()
        fresh.append(FreshFile(layout, source.bytes, sha256, replaced))
    return fresh, skipped


@dataclass(frozen=True)
class _Known:
    """A file in the catalog, and the settings it was read with."""

    file_id: int
    path: str
    sha256: str
    settings: Mapping[str, Any]


def _change(before: _Known | None, sha256: str, settings: SourceSettings) -> str | None:
    if before is None:
        return None
    if before.sha256 != sha256:
        return "has changed since it was ingested"
    return None if _means(before.settings, settings) else "was ingested with other settings"


def _means(document: Mapping[str, Any], settings: SourceSettings) -> bool:
    """Say whether stored settings are these; what they do not mention has its default."""
    try:
        stored = SourceSettings.from_document(document)
    except ValueError:
        return False
    return to_json(stored.as_document()) == to_json(settings.as_document())


def _check_changes(changes: Mapping[str, str], replace: bool) -> None:
    if changes and not replace:
        path, change = next(iter(changes.items()))
        others = f" (and {len(changes) - 1:,} other files)" if len(changes) > 1 else ""
        raise CatalogError(
            f"{path} {change}{others}; run again with --replace to put it in the place of the old "
            "rows (snapshots keep seeing those)"
        )


def _known(connection: duck.Connection) -> list[_Known]:
    runs = {
        run: json.loads(settings)
        for run, settings in connection.execute(
            "select run_id, settings from runs where kind = ?", [KIND]
        ).fetchall()
    }
    jobs = dict(connection.execute("select file_id, job from file_numbers").fetchall())
    return [
        _Known(
            file.file_id, file.path, file.sha256, _settings_of(runs[jobs[file.file_id]], file.path)
        )
        for file in known_files(connection)
        if jobs[file.file_id] in runs  # what a language model wrote was read from no file
    ]


def run_settings(fresh: Sequence[FreshFile]) -> dict[str, object]:
    """Write the settings of all files as plain data, equal ones once."""
    documents = [file.document for file in fresh]
    distinct = {to_json(document): document for document in documents}
    places = {text: place for place, text in enumerate(distinct)}
    return {
        "settings": list(distinct.values()),
        "files": {file.path: places[to_json(file.document)] for file in fresh},
    }


def _settings_of(run: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    document: Mapping[str, Any] = run["settings"][run["files"][path]]
    return document


def hash_source(source: Source) -> str:
    """Return the SHA-256 of a source's bytes; of a folder: of the sums of its files.

    Of an object on S3 it is what S3 says of it, as to read it would cost as much as to ingest it.
    """
    if isinstance(source.path, ObjectPath):
        return source.path.identity
    parts = [part for part in source.parts() if isinstance(part, Path)]
    sums = [_sha256(part) for part in parts]
    if len(sums) == 1 and parts[0] == source.path:
        return sums[0]
    names = [
        f"{name} {part.relative_to(source.path)}\n" for name, part in zip(sums, parts, strict=True)
    ]
    return hashlib.sha256("".join(names).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
