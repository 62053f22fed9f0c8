"""The rows' own instructions, also in versions of the lake that had none."""

from catalog import duck
from catalog.lake import scalar


def own_instruction(connection: duck.Connection, pairs: str = "pairs", row: str = "p") -> str:
    """Return SQL for the instruction of a row of ``pairs``: null where the version has no column.

    A snapshot of an older version of the lake is read with that version's columns.
    """
    found = scalar(
        connection,
        f"select count(*) from (describe {pairs}) where column_name = 'instruction'",
    )
    return f"{row}.instruction" if found else "null::varchar"
