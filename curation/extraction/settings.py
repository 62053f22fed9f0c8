"""What is taken from a page, and how much work a page may make."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

KINDS: Final = ("title-content", "heading-section", "question-answer")
# Stored with every pair; raise it when the same page would give other pairs.
EXTRACTOR: Final = "lode/1"


@dataclass(frozen=True)
class PageSettings:
    """How pages become pairs.

    ``page_cpu_s`` is processor time, not time on the clock: a busy machine refuses no page that an
    idle one takes.
    """

    kinds: tuple[str, ...] = KINDS
    min_content_chars: int = 50
    min_section_chars: int = 20
    page_cpu_s: float = 10.0
    page_memory_mib: int = 2048
    max_page_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            found = repr(unknown[0]) if unknown else "none"
            raise ValueError(f"kinds of pairs: found {found}; allowed are {', '.join(KINDS)}")
        for one in fields(self)[1:]:
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ValueError(f"{one.name} is {value!r}; it must be more than 0")

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "PageSettings":
        """Make settings from a recipe's table; what it does not mention has its default."""
        known = [one.name for one in fields(cls)]
        for key in document:
            if key not in known:
                raise ValueError(f"unknown setting of pages {key!r}; allowed: {', '.join(known)}")
        values = dict(document)
        if "kinds" in values:
            values["kinds"] = tuple(values["kinds"])
        return cls(**values)

    def as_document(self) -> dict[str, Any]:
        """Write the settings as plain data, the same for equal settings."""
        return {**asdict(self), "kinds": list(self.kinds)}
