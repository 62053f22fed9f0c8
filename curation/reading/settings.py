"""The settings of a source: checked where they are made, stored with what they made."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from catalog.schema import FORMS, TASKS
from curation.extraction.settings import PageSettings
from curation.reading.fields import TARGETS, closest
from curation.reading.source_path import SourcePath

AUTO: Final = "auto"
STEM: Final = "{stem}"
FORMATS: Final = (
    "jsonl", "json-array", "csv", "tsv", "parquet", "arrow", "hf-dataset", "warc", "html",
    "markdown",
)  # fmt: skip
TRANSLATED: Final = ("source", "form", "task", "label")
ANY_VALUE: Final = "*"
# Suffixes that say how a file is written, not what it is about.
FORMAT_SUFFIXES: Final = (
    ".gz", ".zst", ".zstd", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow",
    ".feather", ".warc", ".html", ".htm", ".xhtml", ".md", ".markdown",
)  # fmt: skip
_TABLES: Final = ("fields", "values", "pages")


@dataclass(frozen=True)
class SourceSettings:
    """How the files of one source are read.

    ``source``, ``form`` and ``task`` hold for every row whose mapped column does not say otherwise.
    ``task`` ``auto`` is sts where two like texts carry a label, else retrieval. ``values`` is what
    mapped columns say in our words: ``{"form": {"qa": "question-answer", "*": "text-text"}}``; the
    star stands for what is not listed, for a label: for what is no number. A label ``nan`` is none.
    """

    source: str = STEM  # {stem} stands for the file's name without its suffixes
    form: str = AUTO
    task: str = AUTO
    language: str = ""
    license: str = ""
    format: str = AUTO
    fields: Mapping[str, str] = field(default_factory=dict)  # target -> column, a.b path, a+b join
    values: Mapping[str, Mapping[str, str | float]] = field(default_factory=dict)
    csv_quotes: bool = True  # false: a quote is a character like any other (many TSV files)
    keep_meta: bool = True
    max_text_bytes: int = 1 << 20
    max_row_bytes: int = 32 << 20
    pages: Mapping[str, Any] = field(default_factory=dict)  # of PageSettings; for pages alone

    def __post_init__(self) -> None:
        _check_choice("form", self.form, (AUTO, *FORMS))
        _check_choice("task", self.task, (AUTO, *TASKS))
        _check_choice("format", self.format, (AUTO, *FORMATS))
        if not self.source.strip():
            raise ValueError(f"source is empty; give a name, or {STEM} for the name of each file")
        for name in ("max_text_bytes", "max_row_bytes"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be at least 1 byte")
        for target, expression in self.fields.items():
            _check_choice("target of a field mapping", target, TARGETS)
            if not isinstance(expression, str) or not expression.strip():
                raise ValueError(f"{target} is mapped to {expression!r}; give a column's name")
        self._check_values()
        PageSettings.from_document(self.pages)

    def _check_values(self) -> None:
        allowed = {"form": FORMS, "task": TASKS}
        for target, table in self.values.items():
            _check_choice("target of a value table", target, TRANSLATED)
            if not isinstance(table, Mapping):
                raise ValueError(f"values.{target} is {table!r}; give a table of old = new")
            for new in table.values():
                if target in allowed:
                    _check_choice(f"values.{target}", str(new), allowed[target])
                if target == "label" and not isinstance(new, int | float):
                    raise ValueError(f"values.label gives {new!r}; a label is a number")

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "SourceSettings":
        """Make settings from a recipe's table."""
        known = [one.name for one in fields(cls)]
        for key, value in document.items():
            _check_choice("key", key, known)
            if key in _TABLES and not isinstance(value, Mapping):
                raise ValueError(f"{key} is {value!r}; it must be a table")
        return cls(**document)

    @classmethod
    def from_assignments(
        cls,
        maps: Iterable[str] = (),
        sets: Iterable[str] = (),
        start: "SourceSettings | None" = None,
    ) -> "SourceSettings":
        """Make settings from ``--map query=text1`` and ``--set form=title-content``."""
        document = (start or cls()).as_document()
        mapped = dict(document["fields"])
        mapped.update(_split(text, "--map", "query=text1") for text in maps)
        for text in sets:
            name, value = _split(text, "--set", "form=title-content")
            _check_choice("setting", name, [key for key in document if key not in _TABLES])
            document[name] = _typed(name, value, document[name])
        return cls.from_document({**document, "fields": mapped})

    def as_document(self) -> dict[str, Any]:
        """Write the settings as plain data, the same for equal settings."""
        return asdict(self)

    def source_of(self, path: SourcePath) -> str:
        """Name the source of a file."""
        return self.source.replace(STEM, stem_of(path))


def stem_of(path: SourcePath) -> str:
    """Name a file without the suffixes that say how it is written; a split by both its names."""
    name = path.name
    while Path(name).suffix.lower() in FORMAT_SUFFIXES:
        name = Path(name).stem
    if isinstance(path, Path) and (path.parent / "dataset_dict.json").is_file():
        return f"{path.parent.name}.{name}"
    return name


def _check_choice(what: str, name: str, allowed: Iterable[str]) -> None:
    names = list(allowed)
    if name not in names:
        raise ValueError(
            f"unknown {what} {name!r}; {closest(str(name), names)}allowed are {', '.join(names)}"
        )


def _split(text: str, option: str, example: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip() or not value.strip():
        raise ValueError(
            f"{option} {text!r} is not NAME=VALUE; write for example {option} {example}"
        )
    return name.strip(), value.strip()


def _typed(name: str, value: str, now: Any) -> Any:
    if isinstance(now, bool):
        if value.lower() not in ("true", "false"):
            raise ValueError(f"--set {name}={value}: give true or false")
        return value.lower() == "true"
    if isinstance(now, int):
        if not value.isdigit():
            raise ValueError(f"--set {name}={value}: give a number of bytes")
        return int(value)
    return value
