"""Rows of ``scores``: one name means one model, so scores of another revision are in the way."""

from catalog import duck
from catalog.errors import CatalogError
from catalog.jobs import Job
from catalog.lake import Catalog, current_version, scalar


def look_up_scores(
    catalog: Catalog, model: str, revision: str, *, replace: bool
) -> tuple[int, int]:
    """Count the scores that are there, and name the version of the lake that says so.

    CatalogError where the model has scores of another revision, unless they are to be replaced.
    """
    with catalog.reader() as connection:
        count = _count(connection, model, revision, replace=replace)
        return count, current_version(connection)


def commit_scores(job: Job, model: str, revision: str, before: int, *, replace: bool) -> None:
    """Commit a job that wrote scores; CatalogError where others came in since it began."""

    def change(connection: duck.Connection) -> None:
        if _count(connection, model, revision, replace=replace) != before:
            raise CatalogError(
                f"another job wrote scores of {model!r} since this one began; run the same command "
                "again"
            )
        if replace:
            connection.execute(
                "delete from scores where model = ? and revision <> ?", [model, revision]
            )

    job.commit(change)


def _count(connection: duck.Connection, model: str, revision: str, *, replace: bool) -> int:
    others = connection.execute(
        "select distinct revision from scores where model = ? and revision <> ? order by revision",
        [model, revision],
    ).fetchall()
    if others and not replace:
        raise CatalogError(
            f"the catalog has scores of {model!r} in revision {others[0][0]}, and this is revision "
            f"{revision} (other weights, instructions or settings); give this one another --name, "
            "or --replace the old scores"
        )
    sql = "select count(*) from scores where model = ? and revision = ?"
    return int(str(scalar(connection, sql, [model, revision])))
