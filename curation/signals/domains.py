"""The domain of a pair's url, and whether a block list names it or a domain above it."""

import logging
import os
import tarfile
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from catalog.records import process_name
from curation.signals.batch import PairBatch, Side
from curation.signals.registry import Columns, Family, Measure
from curation.signals.settings import SignalSettings, digest

# The UT1 lists of Université Toulouse 1, as datatrove's wheel carries them: 4.56M domains.
ARCHIVE: Final = "url_filterblacklistsv0_3_0.tar.gz"
Hashes = npt.NDArray[np.uint64]

_LOG: Final = logging.getLogger(__name__)


def domain(batch: PairBatch, side: Side, settings: SignalSettings) -> Columns:
    """Domain of the row's url, and its block-list hit."""
    urls = batch.column("url")
    if isinstance(urls, pa.ChunkedArray):
        urls = urls.combine_chunks()
    if urls.null_count == len(urls):
        return {
            "domain": pa.nulls(len(urls), pa.string()),
            "blocked": pa.nulls(len(urls), pa.bool_()),
        }
    # Pages of one site stand together: a url is parsed once, a host is looked up once.
    encoded = urls.dictionary_encode()
    hosts = pa.array([host_of(url) for url in encoded.dictionary.to_pylist()], pa.string())
    names = pc.take(hosts, encoded.indices)
    known = names.dictionary_encode()
    hits = pa.array(
        [is_blocked(name, settings) for name in known.dictionary.to_pylist()], pa.bool_()
    )
    return {"domain": names, "blocked": pc.take(hits, known.indices)}


def host_of(url: str) -> str | None:
    """Return the host of a url in lower case, without port and www; None where there is none."""
    text = url.strip()
    if "://" not in text:
        text = "//" + text.lstrip("/")
    try:
        host = urlsplit(text).hostname
    except ValueError:  # an unclosed bracket of an IPv6 address
        return None
    host = (host or "").rstrip(".").removeprefix("www.")
    # "see below" and "n/a" stand in url fields, too; a host has a dot, or is an IPv6 address.
    return host if ("." in host or ":" in host) and " " not in host else None


def is_blocked(host: str, settings: SignalSettings) -> bool:
    """Say whether a list names the host or a domain that it belongs to."""
    lists = [bundled_hashes(), *(_listed_hashes(path) for path in settings.domain_lists)]
    return any(_contains(hashes, _hash(name)) for name in _parents(host) for hashes in lists)


def _parents(host: str) -> Iterator[str]:
    """Yield a.b.example.com, b.example.com, example.com, com: .xxx is listed as a whole."""
    parts = host.split(".")
    for start in range(len(parts)):
        yield ".".join(parts[start:])


def _contains(hashes: Hashes, wanted: int) -> bool:
    place = int(np.searchsorted(hashes, np.uint64(wanted)))
    return place < len(hashes) and int(hashes[place]) == wanted


def _hash(name: str) -> int:
    # 4.6M names in 64 bits: a name collides with a listed one with probability 2.5e-13.
    return xxhash.xxh3_64_intdigest(name)


@cache
def bundled_hashes() -> Hashes:
    """Open the sorted hashes of datatrove's list; made once a user, then memory-mapped."""
    archive = _archive()
    path = _cache_folder() / f"domains-{archive.stat().st_size}.npy"
    try:
        return _mapped(path)
    except (OSError, ValueError):  # not made yet, or cut by a crash of the machine
        hashes = _read_archive(archive)
    try:
        _write(hashes, path)
        return _mapped(path)
    except OSError as error:
        _LOG.warning("%s cannot be written (%s): each process makes it anew", path, error)
        return hashes


def _mapped(path: Path) -> Hashes:
    mapped: Hashes = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _read_archive(archive: Path) -> Hashes:
    """Hash name by name: the list is 124 MB, its hashes are 36 MB."""
    with tarfile.open(archive) as tar:
        stream = tar.extractfile("domains")
        assert stream is not None
        names = (line.rstrip(b"\n") for line in stream)  # clean: lower case, no comments
        return np.sort(np.fromiter(map(xxhash.xxh3_64_intdigest, names), np.uint64))


def _write(hashes: Hashes, path: Path) -> None:
    """Write aside and rename: two processes may both make it, and the content is the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{process_name()}.tmp")
    with aside.open("wb") as file:
        np.save(file, hashes)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


@cache
def _listed_hashes(path: Path) -> Hashes:
    """Hash a user's list: a domain a line, # begins a comment."""
    return _sorted_hashes(path.read_text(encoding="utf-8-sig").splitlines())


def _sorted_hashes(lines: Iterable[str]) -> Hashes:
    names = (line.split("#", 1)[0].strip().lower().rstrip(".") for line in lines)
    return np.unique(
        np.array([_hash(name.removeprefix("www.")) for name in names if name], np.uint64)
    )


def _archive() -> Path:
    spec = find_spec("datatrove")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "assets" / ARCHIVE


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lode"


def _depends(settings: SignalSettings) -> tuple[object, ...]:
    return ARCHIVE, digest(*settings.domain_lists)


DOMAIN: Final = Family(
    "domain",
    ("passage",),
    (
        Measure("domain", "host of the url, lower case, without port and www", "name", pa.string()),
        Measure(
            "blocked",
            "a block list names the domain or one above it; null where there is no url",
            "true or false",
            pa.bool_(),
            source="UT1 lists in datatrove; InternLM2: domain block",
        ),
    ),
    domain,
    depends=_depends,
)
