"""How far a file has been read: for the message of an error, and for progress."""

from dataclasses import dataclass


@dataclass
class Reach:
    """The row that is being read, and the bytes of the file that have been read."""

    row: int = 0
    bytes: int = 0
