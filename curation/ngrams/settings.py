"""The settings of an n-gram model; without kernels, so that the command line starts fast."""

from dataclasses import dataclass

from catalog.bounds import check_at_least_one


@dataclass(frozen=True)
class NgramSettings:
    """``max_chars`` of the sample; rarer characters and trigrams than these counts are left out."""

    max_chars: int = 20_000_000
    min_character_count: int = 5
    min_trigram_count: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings; ValueError says what is allowed."""
        check_at_least_one(self, "max_chars", "min_character_count", "min_trigram_count")
