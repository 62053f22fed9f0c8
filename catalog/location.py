"""Where a catalog lives: one URL that names the metadata database, the data and the work folder.

``./corpus`` is a folder with everything in it (SQLite metadata, no server).
``./corpus?data=s3://bucket/prefix`` keeps the data on S3 and the rest in the folder.
``postgres://user@host:5432/db?data=s3://bucket/prefix&work=/shared/jobs`` is a team's catalog.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

ENVIRONMENT_VARIABLE = "LODE_CATALOG"
S3 = "s3://"
# No character of a bucket or prefix has a meaning in a URL or a pattern of DuckDB.
BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.=-]+)*/?")


@dataclass(frozen=True)
class Location:
    """The three places of a catalog: metadata (for DuckLake), data, work (jobs, locks)."""

    url: str
    metadata: str
    data: str
    work: Path

    @property
    def is_local(self) -> bool:
        """Metadata in SQLite: commits are serialised by a file lock."""
        return self.metadata.startswith("sqlite:")

    @property
    def is_on_s3(self) -> bool:
        """The data are objects of a bucket, not files of a folder."""
        return self.data.startswith(S3)

    @property
    def sqlite_path(self) -> Path:
        """The metadata file of a local catalog."""
        return Path(self.metadata.removeprefix("sqlite:"))


def resolve(url: str | None) -> Location:
    """Turn a URL, or the environment's ``LODE_CATALOG``, into a location."""
    chosen = url or os.environ.get(ENVIRONMENT_VARIABLE) or "./corpus"
    if chosen.startswith(("postgres://", "postgresql://")):
        return _postgres(chosen)
    folder, has_data, data = chosen.partition("?data=")
    if "://" in folder:
        raise ValueError(
            f"catalog {chosen!r}: the scheme {chosen.split('://')[0]!r} is not known; "
            "give a folder, folder?data=s3://bucket/prefix, or postgres://user@host/db?data=…&work=…"
        )
    root = Path(folder).expanduser().resolve()
    place = _data(data) if has_data else str(root / "data")
    return Location(
        url=f"{root}?data={place}" if has_data else str(root),
        metadata=f"sqlite:{root / 'catalog.sqlite'}",
        data=place,
        work=root,
    )


def _data(place: str) -> str:
    """Check a place for data: a folder, or a bucket with a prefix."""
    if "://" not in place:
        return str(Path(place).expanduser().resolve())
    if not BUCKET.fullmatch(place):
        raise ValueError(
            f"catalog: data={place} is no place for data; give a folder, or s3://bucket/prefix "
            "(letters, digits and any of -_.=/; credentials come from the environment)"
        )
    return place.rstrip("/")


def _postgres(url: str) -> Location:
    parts = urlsplit(url)
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    unknown = sorted(set(options) - {"data", "work"})
    if unknown:
        raise ValueError(f"catalog URL: unknown option {unknown[0]!r}; allowed are data and work")
    for name in ("data", "work"):
        if name not in options:
            raise ValueError(
                f"catalog URL: {name}=… is missing; a catalog in PostgreSQL needs data= "
                "(a folder or s3://bucket/prefix) and work= (a folder that all workers share)"
            )
    fields = {
        "host": parts.hostname,
        "port": str(parts.port) if parts.port else None,
        "dbname": parts.path.lstrip("/") or None,
        "user": unquote(parts.username) if parts.username else None,
    }
    # The password stays in PGPASSWORD or ~/.pgpass: a URL is stored in logs and in shell history.
    if parts.password:
        raise ValueError("catalog URL: put the password into PGPASSWORD or ~/.pgpass, not the URL")
    connection = " ".join(f"{key}={value}" for key, value in fields.items() if value)
    return Location(
        url=url,
        metadata=f"postgres:{connection}",
        data=_data(options["data"]),
        work=Path(options["work"]).resolve(),
    )
