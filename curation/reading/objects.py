"""Source files on S3: found by pattern, and read only while they are what was found.

Every request for bytes names the object's ETag, so S3 itself refuses one that was replaced since. A
reader asks for a stretch at a time, longer ones the longer it goes straight on: the first bytes of
a file, which say how it is read, cost little, and a whole file few requests.
"""

import contextlib
import io
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

from catalog.errors import CatalogError
from catalog.location import S3
from catalog.s3 import MISSING, asking, find_access
from curation.reading.errors import SourceFileError

FIRST_BYTES: Final = 64 << 10
MAX_BYTES: Final = 8 << 20
TRIES: Final = 3  # of a stretch whose connection broke; S3's own client repeats only the request
DATASET_FILES: Final = ("state.json", "dataset_dict.json")
_WILD: Final = re.compile(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])")
_MEANINGS: Final = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class ObjectPath:
    """An object as S3 listed it, with what readers ask of a ``Path``."""

    bucket: str
    key: str
    bytes: int
    etag: str  # of what was written last; MD5 of the content in most cases

    def __str__(self) -> str:
        return f"{S3}{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """Return the last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        """Return the last suffix of the name."""
        return PurePosixPath(self.key).suffix

    @property
    def suffixes(self) -> list[str]:
        """Return all suffixes of the name."""
        return PurePosixPath(self.key).suffixes

    @property
    def identity(self) -> str:
        """Return what stands for the content where nobody has read it."""
        return f"etag:{self.etag}:{self.bytes}"

    def exists(self) -> bool:
        """Say yes: it was listed."""
        return True

    def is_dir(self) -> bool:
        """Say no: a folder of S3 is only a beginning that keys share."""
        return False

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open the object for reading at any place."""
        assert mode == "rb"
        return io.BufferedReader(_ObjectReader(self), FIRST_BYTES)


def find_object(url: str) -> ObjectPath:
    """Look one object up; SourceFileError where it does not exist."""
    bucket, key = _split(url)
    found = _head(bucket, key)
    if found is None:
        raise SourceFileError(url, "does not exist", "check bucket and key")
    return found


def find_objects(pattern: str, suffixes: Collection[str]) -> list[ObjectPath]:
    """List the objects that a URL stands for, in the order of their keys.

    The URL names an object, a folder (all that end in one of ``suffixes``, at any depth), or is a
    pattern as of ``glob``: ``*`` and ``?`` stay within a name, ``**`` does not.
    """
    bucket, key = _split(pattern)
    if key and not key.endswith("/") and (one := _head(bucket, key)):
        return [one]  # also where its name has the signs of a pattern
    if not _WILD.search(key):
        return _of_folder(pattern, bucket, key, suffixes)
    found = list(_matching(bucket, key))
    if not found:
        raise SourceFileError(pattern, "matches no object", "check bucket and pattern")
    return found


def _matching(bucket: str, pattern: str) -> Iterator[ObjectPath]:
    wanted, literal = _expression(pattern), _WILD.split(pattern, maxsplit=1)[0]
    shows_hidden = "/." in f"/{pattern}"
    for one in _list(bucket, literal):
        if wanted.fullmatch(one.key) and (shows_hidden or not _is_hidden(one.key)):
            yield one


def _of_folder(url: str, bucket: str, key: str, suffixes: Collection[str]) -> list[ObjectPath]:
    prefix = f"{key.rstrip('/')}/" if key.strip("/") else ""
    listed = list(_list(bucket, prefix))
    if not listed:
        raise SourceFileError(url, "does not exist", "check bucket and key")
    if dataset := next((one for one in listed if one.name in DATASET_FILES), None):
        raise SourceFileError(
            url, f"holds a data set of save_to_disk ({dataset})",
            f"name its Arrow files: {S3}{bucket}/{prefix}*.arrow",
        )  # fmt: skip
    found = [
        one
        for one in listed
        if any(suffix.lower() in suffixes for suffix in one.suffixes[-2:])
        and not _is_hidden(one.key.removeprefix(prefix))
    ]
    if not found:
        known = ", ".join(sorted(suffixes))
        raise SourceFileError(url, "is a folder without a source file", f"these end in {known}")
    return found


def _expression(pattern: str) -> re.Pattern[str]:
    """Translate a pattern of ``glob``."""
    parts = []
    for part in _WILD.split(pattern):
        if part.startswith("[") and part.endswith("]") and len(part) > 2:
            negated = part[1] == "!"
            parts.append(f"[{'^/' if negated else ''}{re.escape(part[1 + negated : -1])}]")
        else:
            parts.append(_MEANINGS.get(part) or re.escape(part))
    return re.compile("".join(parts).replace(r"\-", "-"), re.DOTALL)


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix(S3).partition("/")
    if not bucket:
        raise ValueError(f"{url!r} names no bucket; write s3://bucket/folder/*.parquet")
    return bucket, key


def _head(bucket: str, key: str) -> ObjectPath | None:
    from botocore.exceptions import ClientError

    with asking(f"{S3}{bucket}/{key}"):
        try:
            found = _client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in MISSING:
                return None
            raise
    return ObjectPath(bucket, key, found["ContentLength"], found["ETag"].strip('"'))


def _list(bucket: str, prefix: str) -> Iterator[ObjectPath]:
    from botocore.exceptions import ClientError

    pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    with asking(f"{S3}{bucket}/{prefix}"):
        try:
            for page in pages:
                for one in page.get("Contents", ()):
                    if not one["Key"].endswith("/"):  # what a console makes to show a folder
                        etag = one["ETag"].strip('"')
                        yield ObjectPath(bucket, one["Key"], one["Size"], etag)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchBucket":
                raise SourceFileError(
                    f"{S3}{bucket}",
                    "does not exist",
                    "check the bucket's name and AWS_ENDPOINT_URL",
                ) from None
            raise


class _ObjectReader(io.RawIOBase):
    """The bytes of an object, asked for as they are needed."""

    def __init__(self, path: ObjectPath) -> None:
        self.path = path
        self.at = 0
        self.held = b""
        self.held_at = 0
        self.stretch = FIRST_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.path.bytes}[whence]
        self.at = max(0, start + offset)
        return self.at

    def readinto(self, target: Any) -> int:
        wanted = min(len(target), self.path.bytes - self.at)
        if wanted <= 0:
            return 0
        if not self.held_at <= self.at < self.held_at + len(self.held):
            self._hold(wanted)
        start = self.at - self.held_at
        part = self.held[start : start + wanted]
        target[: len(part)] = part
        self.at += len(part)
        return len(part)

    def _hold(self, wanted: int) -> None:
        """Get the bytes from here on."""
        goes_on = self.held != b"" and self.at == self.held_at + len(self.held)
        self.stretch = min(2 * self.stretch, MAX_BYTES) if goes_on else FIRST_BYTES
        if self.at < FIRST_BYTES:
            self.held, self.held_at = _beginning(self.path), 0
        else:
            end = min(self.at + max(wanted, self.stretch), self.path.bytes)
            self.held, self.held_at = _bytes_of(self.path, self.at, end), self.at


@lru_cache(maxsize=256)
def _beginning(path: ObjectPath) -> bytes:
    """Return the first bytes; a file is opened several times to find out how it is read."""
    return _bytes_of(path, 0, min(FIRST_BYTES, path.bytes))


def _bytes_of(path: ObjectPath, start: int, end: int) -> bytes:
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    with asking(str(path)):
        for _ in range(TRIES - 1):
            with contextlib.suppress(HTTPClientError, IncompleteReadError):
                return _ask(path, start, end)
        return _ask(path, start, end)


def _ask(path: ObjectPath, start: int, end: int) -> bytes:
    from botocore.exceptions import ClientError

    try:
        answer = _client().get_object(
            Bucket=path.bucket, Key=path.key, IfMatch=path.etag, Range=f"bytes={start}-{end - 1}"
        )
    except ClientError as error:
        if error.response["Error"]["Code"] in ("PreconditionFailed", "412", *MISSING):
            raise CatalogError(
                f"{path}: changed while it was read; ingest it when nothing writes to it"
            ) from None
        raise
    data: bytes = answer["Body"].read()
    return data


def _client() -> Any:
    """Return this process's client; threads share it."""
    names = (item for item in os.environ.items() if item[0].startswith("AWS_"))
    return _client_of(os.getpid(), tuple(sorted(names)))


@lru_cache(maxsize=1)
def _client_of(process: int, environment: tuple[tuple[str, str], ...]) -> Any:
    # Making one takes longer than a request.
    return find_access().client
