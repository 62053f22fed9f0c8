"""The one door to S3: who we are there, and files of a bucket.

Credentials, region and endpoint come from where every tool of AWS looks for them: the environment
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL), ~/.aws,
or the role of the machine. They live in memory only: nothing here is pickled, stored or logged.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import xxhash

from catalog import duck
from catalog.errors import CatalogError
from catalog.records import CHECKSUM_BLOCK_BYTES, process_name
from catalog.storage import StoredFile

DEFAULT_REGION = "us-east-1"
MISSING = ("404", "NoSuchKey", "NoSuchUpload")


@dataclass(frozen=True)
class Access:
    """How S3 is reached; its text form shows no secret."""

    client: Any = field(repr=False)
    key: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(repr=False)
    region: str
    host: str
    is_encrypted: bool
    by_path: bool  # http://host/bucket/key, not http://bucket.host/key


def find_access() -> Access:
    """Look for credentials, region and endpoint as the tools of AWS do."""
    try:
        import boto3
        import botocore.session
    except ImportError as error:
        raise CatalogError(
            "data on S3 needs the package boto3; run: pip install 'lode-engine[s3]'"
        ) from error
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader())
    region = session.get_config_variable("region") or os.environ.get("AWS_REGION") or DEFAULT_REGION
    with asking("S3"):
        found = session.get_credentials()
        if found is None:
            raise CatalogError(
                "no credentials for S3 were found; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws"
            )
        frozen = found.get_frozen_credentials()
        client = boto3.Session(botocore_session=session).client("s3", region_name=region)
    endpoint = urlsplit(client.meta.endpoint_url)
    # A service may know buckets as host names only: ~/.aws/config says so.
    style = session.get_scoped_config().get("s3", {}).get("addressing_style", "auto")
    is_amazon = ".amazonaws.com" in (endpoint.hostname or "")
    return Access(
        client=client,
        key=frozen.access_key,
        secret=frozen.secret_key,
        token=frozen.token,
        region=region,
        host=endpoint.netloc,
        is_encrypted=endpoint.scheme == "https",
        by_path=style == "path" or (style == "auto" and not is_amazon),
    )


@cache
def _loader() -> Any:
    # A session of its own would read the descriptions of all services anew, for each connection.
    from botocore.loaders import create_loader

    return create_loader()


def sign_in(connection: duck.Connection) -> None:
    """Let a connection read and write S3, until it is closed."""
    access = find_access()
    values = {
        "key_id": access.key,
        "secret": access.secret,
        "region": access.region,
        "endpoint": access.host,
        "url_style": "path" if access.by_path else "vhost",
        "use_ssl": access.is_encrypted,
    } | ({"session_token": access.token} if access.token else {})
    # Bound values: an error of DuckDB can show a statement's text.
    options = ", ".join(f"{name} ${name}" for name in values)
    connection.execute(f"create temporary secret (type s3, {options})", values)


def open_object(place: str) -> pa.NativeFile:
    """Open an object of ``s3://bucket/key`` for reading at any place."""
    from pyarrow.fs import S3FileSystem

    access = find_access()
    system = S3FileSystem(
        access_key=access.key,
        secret_key=access.secret,
        session_token=access.token,
        region=access.region,
        endpoint_override=access.host,
        scheme="https" if access.is_encrypted else "http",
        force_virtual_addressing=not access.by_path,
    )
    with asking(place):
        return system.open_input_file(place.removeprefix("s3://"))


@contextlib.contextmanager
def asking(place: str) -> Iterator[None]:
    """Say in one line what S3 could not do; a request may have been tried several times."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise CatalogError(f"{place}: {error}; {_advice(error)}") from error
    except FileNotFoundError as error:
        raise CatalogError(f"{place} is missing") from error
    except OSError as error:
        if error.errno is not None:  # of a file on this machine
            raise
        raise CatalogError(f"{place}: {error}; {_advice(error)}") from error


def _advice(error: Exception) -> str:
    text = str(error)
    if "NoSuchBucket" in text or "HeadBucket operation: Not Found" in text:
        return "make the bucket first, or name another one"
    if any(sign in text for sign in ("AccessDenied", "Forbidden", "InvalidAccessKey", "Signature")):
        return "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do there"
    return "when S3 answers, run the same command again: what is finished is kept"


@dataclass(frozen=True)
class Bucket:
    """The files below ``s3://bucket/prefix``.

    S3 has no rename and needs none: an object appears whole at the end of its upload. A killed
    upload leaves parts that nobody sees and everybody pays for, so they are listed as files.
    """

    name: str
    prefix: str  # empty, or ends in a slash
    access: Access

    @classmethod
    def of(cls, data: str) -> "Bucket":
        """Reach the place that ``s3://bucket/prefix`` names."""
        name, _, prefix = data.removeprefix("s3://").partition("/")
        return cls(name, f"{prefix.rstrip('/')}/" if prefix.strip("/") else "", find_access())

    def require(self) -> None:
        """Raise a CatalogError where the bucket does not exist or may not be listed."""
        with asking(self.place("")):
            self.access.client.head_bucket(Bucket=self.name)

    def place(self, path: str) -> str:
        """Return the URL."""
        return f"s3://{self.name}/{self.prefix}{path}"

    def aside(self, path: str, work: Path) -> Path:
        """Return a file of the job's folder: its checksum is needed before the upload."""
        aside = work / "aside" / f"{path}.{process_name()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        return aside

    def publish(self, aside: Path, path: str) -> None:
        """Upload the file, compare the size that arrived, and remove it here."""
        with asking(self.place(path)):
            self.access.client.upload_file(str(aside), self.name, self.prefix + path)
        size, found = aside.stat().st_size, self.find(path)
        if found is None or found.bytes != size:
            arrived = "nothing" if found is None else f"{found.bytes:,} bytes"
            raise CatalogError(f"{self.place(path)}: {size:,} bytes were sent, {arrived} arrived")
        aside.unlink()

    def files(self) -> list[StoredFile]:
        """List all objects below the prefix, and uploads that were never completed."""
        found = []
        with asking(self.place("")):
            for page in self._pages("list_objects_v2"):
                for one in page.get("Contents", ()):
                    modified = one["LastModified"].timestamp()
                    found.append(StoredFile(self._path(one["Key"]), one["Size"], modified))
            for page in self._pages("list_multipart_uploads"):
                for one in page.get("Uploads", ()):
                    begun, upload = one["Initiated"].timestamp(), one["UploadId"]
                    found.append(StoredFile(self._path(one["Key"]), 0, begun, upload))
        return found

    def find(self, path: str) -> StoredFile | None:
        """Look an object up."""
        from botocore.exceptions import ClientError

        with asking(self.place(path)):
            try:
                found = self.access.client.head_object(Bucket=self.name, Key=self.prefix + path)
            except ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return None
                raise
        return StoredFile(path, found["ContentLength"], found["LastModified"].timestamp())

    def checksum(self, path: str) -> str:
        """Read the object, a block at a time."""
        hasher = xxhash.xxh3_128()
        with asking(self.place(path)):
            body = self.access.client.get_object(Bucket=self.name, Key=self.prefix + path)["Body"]
            for block in body.iter_chunks(CHECKSUM_BLOCK_BYTES):
                hasher.update(block)
        return hasher.hexdigest()

    def delete(self, file: StoredFile) -> None:
        """Delete the object, or abort the upload."""
        from botocore.exceptions import ClientError

        target = {"Bucket": self.name, "Key": self.prefix + file.path}
        with asking(self.place(file.path)):
            if file.upload is None:
                self.access.client.delete_object(**target)
                return
            try:
                self.access.client.abort_multipart_upload(**target, UploadId=file.upload)
            except ClientError as error:
                if error.response["Error"]["Code"] not in MISSING:
                    raise

    def _pages(self, operation: str) -> Iterator[dict[str, Any]]:
        pages = self.access.client.get_paginator(operation)
        yield from pages.paginate(Bucket=self.name, Prefix=self.prefix)

    def _path(self, key: str) -> str:
        return key.removeprefix(self.prefix)
