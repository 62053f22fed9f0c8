"""Where a catalog lives: one URL that names the metadata database, the data and the work folder.

``./corpus`` is a folder with everything in it (SQLite metadata, no server).
``postgres://user@host:5432/db?data=s3://bucket/prefix&work=/shared/jobs`` is a team's catalog.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

ENVIRONMENT_VARIABLE = "LODE_CATALOG"


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
    def sqlite_path(self) -> Path:
        """The metadata file of a local catalog."""
        return Path(self.metadata.removeprefix("sqlite:"))


def resolve(url: str | None) -> Location:
    """Turn a URL, or the environment's ``LODE_CATALOG``, into a location."""
    chosen = url or os.environ.get(ENVIRONMENT_VARIABLE) or "./corpus"
    if chosen.startswith(("postgres://", "postgresql://")):
        return _postgres(chosen)
    if "://" in chosen:
        raise ValueError(
            f"catalog {chosen!r}: the scheme {chosen.split('://')[0]!r} is not known; "
            "give a folder, or postgres://user@host/db?data=…&work=…"
        )
    root = Path(chosen).expanduser().resolve()
    return Location(
        url=str(root),
        metadata=f"sqlite:{root / 'catalog.sqlite'}",
        data=str(root / "data"),
        work=root,
    )


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
    data = options["data"]
    return Location(
        url=url,
        metadata=f"postgres:{connection}",
        data=data if "://" in data else str(Path(data).resolve()),
        work=Path(options["work"]).resolve(),
    )
