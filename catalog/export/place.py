"""The place of an export: what is written there appears whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from catalog.errors import CatalogError
from catalog.records import sync_file, sync_folder, writing


@contextmanager
def written_whole(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write in; what stands there under the target's name becomes the target."""
    if path.exists() and not overwrite:
        raise CatalogError(f"{path} exists; choose another name, or --overwrite")
    aside = path.with_name(f".{path.name}.tmp")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(aside)  # what a killed export left
        aside.mkdir()
        try:
            yield aside
            made = aside / path.name
            for file in [made] if made.is_file() else made.rglob("*"):
                if file.is_file():
                    sync_file(file)
            if path.is_dir() or made.is_dir():  # a file replaces a file in one step
                _remove(path)
            made.rename(path)
            sync_folder(path.parent)
        finally:
            _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
