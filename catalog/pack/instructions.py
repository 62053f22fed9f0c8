"""The queries' own instructions: written as codes, read back as texts."""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog import duck
from catalog.instructions import own_instruction
from catalog.pack.contents import SCRATCH, named_column
from catalog.pack.layout import MAX_INSTRUCTIONS, Ids, Integers, Manifest, PackError
from catalog.pack.mapped import MappedFile
from catalog.pack.parts import Parts

PART: Final = "query-instructions"
COLUMN: Final = "code"
Codes = npt.NDArray[np.uint16]


class QueryInstructions:
    """The instructions of a pack's queries, by row."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._texts: list[str | None] = [None, *manifest.instructions]
        self._codes: Codes | None = None
        if manifest.instructions:
            self._codes = MappedFile(folder / f"{PART}.{COLUMN}").array(np.uint16)

    def of(self, rows: Integers) -> list[str | None] | None:
        """Return each query's own instruction, None where it has none; None where no query has."""
        if self._codes is None:
            return None
        return [self._texts[code] for code in self._codes[rows].tolist()]


def list_instructions(connection: duck.Connection) -> list[str]:
    """List the instructions of the kept pairs' queries; a code is a place in the list plus one."""
    own = own_instruction(connection, "lake.pairs")
    rows = connection.execute(
        f"""
        select distinct {own} as instruction
        from lake.pairs p semi join {SCRATCH}.kept k on p.pair_id = k.query_id and k.is_pair
        where {own} is not null order by 1
        """
    ).fetchall()
    if len(rows) > MAX_INSTRUCTIONS:
        raise PackError(
            f"the snapshot's queries have {len(rows):,} instructions; a pack numbers at most "
            f"{MAX_INSTRUCTIONS:,}: put what differs from row to row into the query itself"
        )
    return [instruction for (instruction,) in rows]


def write_instructions(
    connection: duck.Connection, parts: Parts, ids: Ids, instructions: list[str]
) -> None:
    """Write a code for every query."""
    known = pa.array(instructions, pa.string())
    with parts.write(PART, (COLUMN,)) as (file,):
        for found in named_column(connection, "query", "instruction", ids):
            places = pa.compute.index_in(found.cast(pa.string()), known)
            codes = pa.compute.add(places, 1).fill_null(0)
            file.write(codes.to_numpy(zero_copy_only=False).astype(np.uint16))
