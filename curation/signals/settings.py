"""The settings of signals: what changes a value beyond the text itself."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

# Almost every passage of a pair is read whole; a book costs what a page costs. The language of a
# longer text is that of its first 1,000 characters in 97 to 100 % of real Chinese news, web pages
# and manuals, and in 89 % of papers, which end in English references.
LANGUAGE_MAX_CHARS: Final = 1_000
# lid.176 is unreliable below about ten characters; scripts decide there.
LANGUAGE_MIN_LETTERS: Final = 10
_COLUMN: Final = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class SignalSettings:
    """What a user can add; a change recomputes the signals that it changes, no others."""

    word_lists: tuple[Path, ...] = ()  # text files, one word a line; see curation/signals/words.py
    domain_lists: tuple[Path, ...] = ()  # text files, one domain a line, beside datatrove's
    language_max_chars: int = LANGUAGE_MAX_CHARS
    language_min_letters: int = LANGUAGE_MIN_LETTERS
    # Name -> folder, file or shipped classifier: the columns query_<name> and passage_<name>.
    classifiers: Mapping[str, str] = field(default_factory=dict, hash=False)
    # Name -> file of lode ngrams learn: bits per character as query_<name> and passage_<name>.
    ngrams: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check each setting; ValueError says what is allowed."""
        for setting in ("word_lists", "domain_lists"):
            paths = tuple(Path(path) for path in getattr(self, setting))
            object.__setattr__(self, setting, paths)
            for path in paths:
                if not path.is_file():
                    raise ValueError(
                        f"{setting}: there is no file {path}; name an existing text file"
                    )
        if self.language_min_letters < 1:
            raise ValueError(f"language_min_letters is {self.language_min_letters}: 1 or more")
        if self.language_max_chars < self.language_min_letters:
            raise ValueError(
                f"language_max_chars is {self.language_max_chars}: "
                f"at least language_min_letters ({self.language_min_letters})"
            )
        _check_models("classifiers", self.classifiers, 'toxicity = "toxicity-cold"')
        _check_models("ngrams", self.ngrams, 'bits = "corpus.ngrams"')
        for name, where in self.ngrams.items():
            if not Path(where).is_file():
                raise ValueError(
                    f"ngrams: {name} is {where}, and there is no such file; make one with: "
                    f"lode ngrams learn SNAPSHOT {where}"
                )


def _check_models(setting: str, models: object, example: str) -> None:
    if not isinstance(models, Mapping):
        raise ValueError(f"{setting} is {models!r}: write {{ {example} }}, names with a path each")
    for name, where in models.items():
        if not _COLUMN.fullmatch(name):
            raise ValueError(
                f"{setting}: {name!r} cannot be part of a column's name: use a-z, 0-9 and _"
            )
        if not isinstance(where, str):
            raise ValueError(f"{setting}: {name} is {where!r}: a path, or one that is shipped")


def digest(*parts: object) -> str:
    """Name values by eight hexadecimal digits of their SHA-256; a file counts by its content."""
    hashed = sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else repr(part).encode()
        hashed.update(sha256(data).digest())
    return hashed.hexdigest()[:8]
