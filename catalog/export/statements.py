"""SQL of the exports, a file each in ``catalog/sql``."""

from functools import cache
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent.parent / "sql"


@cache
def statement(name: str) -> str:
    """Read a statement."""
    return (FOLDER / f"export_{name}.sql").read_text(encoding="utf-8")
