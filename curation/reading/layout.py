"""How one file is read: format, mapping, and a sentence that says what was chosen and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from curation.reading.arrow_rows import is_text
from curation.reading.chunks import META, ArrowChunk, Chunk, ChunkSize
from curation.reading.errors import SourceFileError
from curation.reading.fields import TARGETS, FieldPath, Fields, dig, parse_paths
from curation.reading.formats import SourceFormat, detect_format, open_chunks
from curation.reading.page_files import PAGE_FIELDS, PAGE_FORMATS
from curation.reading.reach import Reach
from curation.reading.settings import AUTO, STEM, SourceSettings
from curation.reading.shapes import (
    Guess,
    guess_shape,
    guess_side_fields,
    holds_lists,
    is_alike,
)
from curation.reading.source_path import SourcePath, locate

SAMPLE: Final = ChunkSize(rows=1_000)
SIDES: Final = ("query", "positive")


@dataclass(frozen=True)
class Layout:
    """Everything that is decided about a file before its rows are read."""

    path: SourcePath
    format: SourceFormat
    columns: tuple[str, ...]
    kind: str
    fields: Fields
    source: str
    form: str
    task: str  # auto: sts where a row has a label, else retrieval
    settings: SourceSettings

    @property
    def rows_are_pairs(self) -> bool:
        """Say whether a row makes at most one pair, so that its number can be the pair's."""
        return self.fields.is_one_to_one and self.format.name not in PAGE_FORMATS

    @property
    def text_columns(self) -> set[str]:
        """Name the columns that are texts even where the file calls them binary."""
        return set(self.fields.used)


@dataclass(frozen=True)
class FormatGuess:
    """What a file seems to be; ``fields`` can be changed and given back as a mapping."""

    path: SourcePath
    format: str
    columns: tuple[str, ...]
    kind: str
    fields: dict[str, str]
    form: str
    task: str
    explanation: str


def inspect(path: SourcePath | str, settings: SourceSettings | None = None) -> FormatGuess:
    """Say how a file would be read, and why."""
    layout = plan_layout(locate(path), settings or SourceSettings())
    fields = layout.fields.as_document()
    return FormatGuess(
        layout.path, str(layout.format), layout.columns, layout.kind, fields, layout.form,
        layout.task, f"{layout.path.name}: {explain(layout)}",
    )  # fmt: skip


def explain(layout: Layout) -> str:
    """Write the sentence that tells what was chosen; it is the same for files read alike."""
    fields = layout.fields.as_document()
    how = "given" if set(layout.settings.fields) & set(SIDES) else "found by their names"
    mapping = ", ".join(f"{target} = {expression}" for target, expression in fields.items())
    used = layout.fields.used
    rest = [name for name in layout.columns if name not in used or () not in used[name]]
    kept = "go to meta" if layout.settings.keep_meta else "are dropped"
    task = "sts where a label is, else retrieval" if layout.task == AUTO else layout.task
    others = f"; {', '.join(rest)} {kept}" if rest else ""
    source = layout.settings.source
    source = source if source != STEM else "named after the file"
    return (
        f"{layout.format}, {layout.kind}; columns {how}: {mapping}{others}; "
        f"source {source}, form {layout.form}, task {task}"
    )


def plan_layout(path: SourcePath, settings: SourceSettings) -> Layout:
    """Decide how a file is read; ValueError where that is not clear, before any row is made."""
    found = detect_format(path, settings.format)
    if found.name in PAGE_FORMATS:
        return _plan_pages(path, found, settings)
    samples = _sample(path, found, settings)
    guess = _choose(path, settings, samples)
    form = settings.form if settings.form != AUTO else guess.form
    task = settings.task
    if task == AUTO and not (guess.alike and guess.fields.of("label")):
        task = "retrieval"
    return Layout(
        path, found, tuple(samples), guess.kind, guess.fields, settings.source_of(path), form, task,
        settings,
    )  # fmt: skip


def _plan_pages(path: SourcePath, found: SourceFormat, settings: SourceSettings) -> Layout:
    """Decide how pages are read: what a page's pairs hold is known before one is read."""
    if settings.fields:
        raise ValueError(
            f"{path} is {found}: pages have no columns to map ({', '.join(settings.fields)}); "
            "leave the mapping out"
        )
    paths = {target: (FieldPath(target),) for target in PAGE_FIELDS}
    form = settings.form if settings.form != AUTO else "title-content"
    task = settings.task if settings.task != AUTO else "retrieval"
    columns = (*PAGE_FIELDS, META)
    return Layout(
        path, found, columns, "pages", Fields(paths), settings.source_of(path), form, task, settings
    )


def _choose(
    path: SourcePath, settings: SourceSettings, samples: Mapping[str, Sequence[Any]]
) -> Guess:
    try:
        given = {
            target: parse_paths(expression, samples)
            for target, expression in settings.fields.items()
        }
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not set(given) & set(SIDES):
        guess = guess_shape(samples)
        if guess is None:
            raise ValueError(
                f"{path}: no columns are known for a pair or a document; columns are "
                f"{', '.join(samples)}; say which is what: --map query=COLUMN --map positive=COLUMN"
            )
        paths = {**guess.fields.paths, **given}
        return replace(guess, fields=replace(guess.fields, paths=_checked(path, paths)))
    if "positive" not in given:
        raise ValueError(f"{path}: query is mapped, but positive is not; add --map positive=COLUMN")
    taken = {name for paths in given.values() for name in paths}
    sides = {
        target: paths
        for target, paths in guess_side_fields(samples).items()
        if not taken & set(paths)
    }
    return _given_guess(_checked(path, {**sides, **given}), samples)


def _checked(
    path: SourcePath, paths: Mapping[str, tuple[FieldPath, ...]]
) -> dict[str, tuple[FieldPath, ...]]:
    for target, chosen in paths.items():
        if len(chosen) > 1 and target not in (*SIDES, "negatives"):
            raise ValueError(f"{path}: {target} is mapped to {len(chosen)} columns; give one")
    return {target: paths[target] for target in TARGETS if target in paths}


def _given_guess(
    paths: Mapping[str, tuple[FieldPath, ...]], samples: Mapping[str, Sequence[Any]]
) -> Guess:
    query, positive = paths.get("query", ()), paths["positive"]
    lists = len(positive) == 1 and holds_lists(
        [dig(value, positive[0].keys) for value in samples[positive[0].column]]
    )
    alike = len(query) == len(positive) == 1 and is_alike(str(query[0]), str(positive[0]))
    kind = "document" if not query else "query with lists of passages" if lists else "pair"
    if "negatives" in paths and not lists:
        kind = "triplet"
    return Guess(kind, Fields(paths, lists), "text-text", alike)


def _sample(
    path: SourcePath, found: SourceFormat, settings: SourceSettings
) -> dict[str, list[Any]]:
    """Return the first values of every column, without nulls."""
    chunk = next(iter(open_chunks(path, found, settings, Reach(), chunk=SAMPLE)), None)
    if chunk is None:
        raise SourceFileError(path, "holds no rows", "leave it out")
    if len(chunk) == 0:
        reason = chunk.rejects[0].reason
        raise SourceFileError(
            path, f"none of its first {chunk.rows_read:,} rows can be read ({reason})",
            "check that it is what its name says",
        )  # fmt: skip
    return {name: _values(chunk, name) for name in chunk.names()}


def _values(chunk: Chunk, name: str) -> list[Any]:
    values = [value for value in chunk.column(name) if value is not None]
    if (
        not values
        and isinstance(chunk, ArrowChunk)
        and is_text(chunk.batch.schema.field(name).type)
    ):
        return [""]  # a column of texts that begins with nulls
    # Parquet of old writers has texts without saying so.
    return [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values
    ]
