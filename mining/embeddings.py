"""Embeddings on disk: a text that was embedded for one snapshot is never embedded again.

A store holds the vectors of one specification (model, revision, side, instruction, …) in shards
that never change: float16 rows, memory-mapped, and the 128-bit keys of their texts in the same
order. A shard appears whole: its files are written aside, fsynced and renamed, and its manifest,
with the checksums, comes last. An index over all shards, sorted by key, is a cache: it is rebuilt
whenever shards came or went.

    <work>/embeddings/<model>-<digest>/spec.json
                                       <shard>.json  <shard>.keys.npy  <shard>.vectors.npy
                                       index-<digest>.npy
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash

from catalog.errors import CatalogError
from catalog.records import (
    checksum,
    process_name,
    sync_folder,
    to_json,
    write_json,
    writing,
)
from mining.key_index import (
    ABSENT,
    Index,
    Keys,
    Places,
    build_index,
    find,
    keys_of,
    open_index,
    rows_of,
    shards_of,
)

Half = npt.NDArray[np.float16]

__all__ = ["EMBEDDINGS", "EmbeddingSpec", "EmbeddingStore", "Keys", "Shard", "keys_of"]

EMBEDDINGS: Final = "embeddings"
_SPEC: Final = "spec.json"
VECTOR_MAX: Final = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class EmbeddingSpec:
    """Everything that decides a vector; vectors of different specifications never meet."""

    model: str
    revision: str
    side: str
    instruction: str
    max_tokens: int | None  # None: the encoder reads all of a text
    width: int
    dtype: str  # what the model computed in; the store keeps float16
    pooling: str = ""

    @property
    def key(self) -> str:
        """Name the store's folder."""
        digest = hashlib.sha256(to_json(asdict(self)).encode()).hexdigest()
        return f"{self.model}-{digest[:12]}"


@dataclass(frozen=True)
class Shard:
    """A finished shard, as its manifest says."""

    name: str
    rows: int
    keys_xxh3: str
    vectors_xxh3: str


@dataclass(frozen=True)
class EmbeddingStore:
    """The shards that a store had when it was opened; cheap to hand to another process."""

    folder: Path
    spec: EmbeddingSpec
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, root: Path, spec: EmbeddingSpec) -> "EmbeddingStore":
        """Open the store of a specification under ``root``, making it where there is none."""
        folder = root / spec.key
        path = folder / _SPEC
        if not path.exists():
            write_json(path, asdict(spec))
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != asdict(spec):
            raise CatalogError(
                f"{folder} holds vectors of {to_json(found)}, not of {to_json(asdict(spec))}; "
                "a store belongs to one model and setting: move the folder away"
            )
        return cls(folder, spec, ()).refresh()

    def refresh(self) -> "EmbeddingStore":
        """Return the store as it is now."""
        found = (_read_shard(path) for path in sorted(self.folder.glob("shard-*.json")))
        return replace(self, shards=tuple(shard for shard in found if shard is not None))

    def __reduce__(self) -> tuple[Any, ...]:
        # Mapped arrays stay behind: another process maps the files itself.
        return EmbeddingStore, (self.folder, self.spec, self.shards)

    def __len__(self) -> int:
        """Count the rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    def missing(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Say which texts have no vector yet."""
        absent: npt.NDArray[np.bool_] = find(self._index, keys) == ABSENT
        return absent

    def lookup(self, keys: Keys) -> Half:
        """Return the vectors of texts, in their order; raise where one has none."""
        places = find(self._index, keys)
        absent = int((places == ABSENT).sum())
        if absent:
            raise CatalogError(
                f"{absent:,} of {len(keys):,} texts have no vector of {self.spec.model} "
                f"({self.spec.side}) in {self.folder}; run: lode embed"
            )
        vectors = np.empty((len(keys), self.spec.width), np.float16)
        order = np.argsort(places, kind="stable")  # by shard and row: the disk is read forwards
        shards = shards_of(places[order])
        for number in np.unique(shards):
            first, last = (np.searchsorted(shards, number, side) for side in ("left", "right"))
            chosen = order[first:last]
            rows = rows_of(places[chosen])
            shard = self._check_rows(int(number), rows, keys[chosen])
            vectors[chosen] = self.vectors(shard)[rows]
        return vectors

    def keys(self, shard: Shard) -> Keys:
        """Map the keys of a shard, in the order of its rows."""
        return self._map(self._path(shard.name, "keys"), shard, 2, np.uint64)

    def vectors(self, shard: Shard) -> Half:
        """Map the vectors of a shard."""
        return self._map(self._path(shard.name, "vectors"), shard, self.spec.width, np.float16)

    def write_shard(self, keys: Keys, vectors: npt.NDArray[Any]) -> Shard:
        """Add vectors as one shard; the same keys twice are the same shard."""
        half = self._halve(keys, vectors)
        name = f"shard-{xxhash.xxh3_128_hexdigest(np.ascontiguousarray(keys).tobytes())}"
        self._write_array(self._path(name, "keys"), keys.astype(np.uint64, copy=False))
        self._write_array(self._path(name, "vectors"), half)
        shard = Shard(
            name,
            len(keys),
            checksum(self._path(name, "keys")),
            checksum(self._path(name, "vectors")),
        )
        sync_folder(self.folder)
        write_json(self.folder / f"{name}.json", asdict(shard))
        return shard

    def verify(self) -> list[Shard]:
        """Read every byte and return the shards that are not as they were written."""
        return [shard for shard in self.shards if not self._is_whole(shard)]

    def discard(self, shards: Sequence[Shard]) -> "EmbeddingStore":
        """Forget damaged shards, so that their texts are embedded again."""
        for shard in shards:
            # The manifest first: without it the shard is not there.
            for suffix in ("json", "keys.npy", "vectors.npy"):
                (self.folder / f"{shard.name}.{suffix}").unlink(missing_ok=True)
        return self.refresh()

    @cached_property
    def _index(self) -> Index:
        """The sorted keys of all shards; made where no run before made it."""
        if not self.shards:
            return np.empty((3, 0), np.uint64)
        names = "\n".join(shard.name for shard in self.shards)
        path = self.folder / f"index-{xxhash.xxh3_128_hexdigest(names.encode())}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError):
            return open_index(path, len(self))
        build_index(path, [self.keys(shard) for shard in self.shards])
        for old in self.folder.glob("index-*.npy"):
            if old != path:
                old.unlink(missing_ok=True)
        return open_index(path, len(self))

    def _check_rows(self, number: int, rows: Places, keys: Keys) -> Shard:
        """Return the shard that holds texts; raise where the index names rows of other texts."""
        if 0 <= number < len(self.shards):
            shard = self.shards[number]
            if rows.max(initial=0) < shard.rows and np.array_equal(self.keys(shard)[rows], keys):
                return shard
        for path in self.folder.glob("index-*.npy"):
            path.unlink(missing_ok=True)
        raise CatalogError(
            f"the index of {self.folder} was damaged and is removed; run the same command again"
        )

    def _halve(self, keys: Keys, vectors: npt.NDArray[Any]) -> Half:
        if vectors.shape != (len(keys), self.spec.width):
            raise ValueError(
                f"vectors of shape {vectors.shape} for {len(keys)} texts of {self.spec.model}, "
                f"whose vectors are {self.spec.width} wide; they are of another model"
            )
        largest = float(np.abs(vectors).max(initial=0.0))
        if not largest <= VECTOR_MAX:
            raise ValueError(
                f"model {self.spec.model} gives a value of {largest}; float16 holds at most "
                f"{VECTOR_MAX:,.0f}"
            )
        return vectors.astype(np.float16, copy=False)

    def _is_whole(self, shard: Shard) -> bool:
        wanted = {"keys": shard.keys_xxh3, "vectors": shard.vectors_xxh3}
        try:
            sizes = {len(self.keys(shard)), len(self.vectors(shard))}
            found = {part: checksum(self._path(shard.name, part)) for part in wanted}
        except (CatalogError, FileNotFoundError):
            return False
        return sizes == {shard.rows} and found == wanted

    def _map(self, path: Path, shard: Shard, width: int, dtype: type) -> npt.NDArray[Any]:
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise CatalogError(f"{path} cannot be read ({error}); run: lode embed") from error
        if array.shape != (shard.rows, width) or array.dtype != dtype:
            raise CatalogError(
                f"{path} holds {array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of "
                f"shape {(shard.rows, width)}; run: lode embed"
            )
        mapped: npt.NDArray[Any] = array
        return mapped

    def _path(self, name: str, part: str) -> Path:
        return self.folder / f"{name}.{part}.npy"

    @staticmethod
    def _write_array(path: Path, array: npt.NDArray[Any]) -> None:
        aside = path.with_name(f".{path.name}.{process_name()}.tmp")
        with writing(path.parent), aside.open("wb") as stream:
            np.save(stream, np.ascontiguousarray(array))
            stream.flush()
            os.fsync(stream.fileno())
        aside.rename(path)


def _read_shard(path: Path) -> Shard | None:
    """Read a manifest; a damaged one is none, and its texts are embedded again."""
    try:
        shard = Shard(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError):
        return None
    return shard if shard.name == path.stem else None
