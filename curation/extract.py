"""Extract: archives and pages of the web become pairs, through the same job as any source file.

A file is one task: its pages are extracted one after the other beside a sandbox, and what they gave
is committed with all other files, or not at all. A page that cannot be used is a row of quarantine.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from catalog.executors import ExecutorSettings, ProgressCallback
from catalog.lake import Catalog
from catalog.location import S3
from curation.ingest import IngestResult, ingest_files
from curation.reading import SourceFileError, SourceSettings
from curation.reading.formats import detect_format
from curation.reading.page_files import PAGE_FORMATS, PAGE_SUFFIXES
from curation.reading.source_path import SourcePath
from curation.sources import Source, expand

__all__ = ["DEFAULT_SOURCE", "extract_pages", "find_pages"]

DEFAULT_SOURCE: Final = "web"


def find_pages(
    files: Iterable[str | Path],
    sets: Iterable[str] = (),
    pages: Mapping[str, Any] | None = None,
) -> list[Source]:
    """List the archives and pages that paths, folders and patterns stand for, each once.

    ``sets`` are settings as ``source=NAME``; ``pages`` are those of PageSettings. A folder stands
    for the WARC, HTML and Markdown files in it, at any depth.
    """
    start = SourceSettings(source=DEFAULT_SOURCE, pages=dict(pages or {}))
    settings = SourceSettings.from_assignments(sets=sets, start=start)
    paths = dict.fromkeys(path for pattern in files for path in _expand(pattern))
    if not paths:
        raise ValueError("there is nothing to extract: give WARC, HTML or Markdown files")
    for path in paths:
        found = detect_format(path, settings.format)
        if found.name not in PAGE_FORMATS:
            raise SourceFileError(
                path, f"is {found}, which holds no web pages", "read it with lode ingest"
            )
    return [Source(path, settings) for path in paths]


def extract_pages(
    catalog: Catalog,
    sources: Sequence[Source],
    *,
    replace: bool = False,
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
) -> IngestResult:
    """Extract the pairs of all pages into the catalog; the same file twice adds nothing.

    A run that was stopped goes on with the files that are missing. A file that changed, or that
    would be extracted with other settings, is refused unless ``replace``.
    """
    return ingest_files(catalog, sources, replace=replace, executor=executor, progress=progress)


def _expand(pattern: str | Path) -> Sequence[SourcePath]:
    folder = Path(pattern).expanduser()
    if str(pattern).startswith(S3) or not folder.is_dir():
        return expand(pattern, PAGE_SUFFIXES)
    found = [path.resolve() for path in sorted(folder.rglob("*")) if _is_page_file(folder, path)]
    if not found:
        raise SourceFileError(
            folder, "is a folder without pages", f"its files end in {', '.join(PAGE_SUFFIXES)}"
        )
    return found


def _is_page_file(folder: Path, path: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return path.is_file() and not is_hidden and any(one in PAGE_SUFFIXES for one in suffixes)
