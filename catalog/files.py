"""Source files in the catalog: their numbers, and what is known of them."""

from dataclasses import dataclass

import pyarrow as pa

from catalog import duck
from catalog.lake import Catalog
from catalog.schema import FILE_SHIFT

FILE_ID_END = 1 << 31  # pair ids are signed 64-bit: 31 bits of file number, 32 of ordinal


@dataclass(frozen=True)
class SourceFile:
    """A file that is in the catalog."""

    file_id: int
    source: str
    path: str
    sha256: str
    rows: int


def first_pair_id(file_id: int) -> int:
    """Return the smallest pair id that a file can have."""
    return file_id << FILE_SHIFT


def known_files(connection: duck.Connection) -> list[SourceFile]:
    """List the files whose pairs are in the catalog, in the order of their numbers."""
    rows = connection.execute(
        "select file_id, source, path, sha256, rows from files order by file_id"
    ).fetchall()
    return [SourceFile(*row) for row in rows]


def reserve_file_ids(catalog: Catalog, job_id: str, files: list[tuple[str, str]]) -> list[int]:
    """Give every (path, sha256) of a job a file number of its own, once and for all.

    A job that asks again, because it was killed before it wrote its plan, gets the same numbers.
    """

    def reserve(connection: duck.Connection) -> list[int]:
        rows = connection.execute(
            "select path, sha256, file_id from file_numbers where job = ?", [job_id]
        ).fetchall()
        reserved = {(path, sha256): file_id for path, sha256, file_id in rows}
        fresh = [file for file in files if file not in reserved]
        if fresh:
            # The update of one row makes two jobs that reserve at once conflict, so one of them
            # retries.
            connection.execute(
                "update counters set value = value + ? where counter = 'file_id'", [len(fresh)]
            )
            end = int(
                connection.execute(
                    "select value from counters where counter = 'file_id'"
                ).fetchall()[0][0]
            )
            if end >= FILE_ID_END:
                raise ValueError(f"file number {end} does not fit into 31 bits")
            numbers = range(end - len(fresh) + 1, end + 1)
            reserved |= dict(zip(fresh, numbers, strict=True))
            table = pa.table(
                {
                    "file_id": pa.array(numbers, pa.int64()),
                    "path": [path for path, _ in fresh],
                    "sha256": [sha256 for _, sha256 in fresh],
                    "job": [job_id] * len(fresh),
                }
            )
            connection.register("fresh_numbers", table)
            connection.execute("insert into file_numbers select * from fresh_numbers")
            connection.unregister("fresh_numbers")
        return [reserved[file] for file in files]

    return catalog.transact(reserve)


def delete_file_rows(connection: duck.Connection, file_id: int) -> None:
    """Remove a file and everything derived from its pairs; snapshots keep seeing it."""
    first, end = first_pair_id(file_id), first_pair_id(file_id + 1)
    keyed = connection.execute(
        "select table_name from duckdb_columns() where database_name = 'lake' "
        "and column_name = 'pair_id' and table_name in "
        "(select table_name from duckdb_tables() where database_name = 'lake')"
    ).fetchall()
    for (table,) in keyed:
        connection.execute(
            f"delete from {duck.identifier(table)} where pair_id >= ? and pair_id < ?", [first, end]
        )
    connection.execute("delete from quarantine where file_id = ?", [file_id])
    connection.execute("delete from files where file_id = ?", [file_id])
    # A text may have been named by a pair that is gone, and clusters may have hung on it: the next
    # deduplication starts from the stored band keys again.
    for table in ("text_ids", "duplicate_edges", "duplicates"):
        connection.execute(f"delete from {table}")
