"""The files of a model: where they are, what it is called, the digest of what decides a vector."""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from catalog.records import checksum, to_json

# The files that decide a vector: weights, tokens, and the settings of both.
_DECISIVE: Final = (
    "*.json", "vocab.txt", "merges.txt", "*.model", "*.safetensors", "pytorch_model*.bin", "*.py",
)  # fmt: skip
_BOOKKEEPING: Final = {"trainer_state.json", "eval_results.json", "all_results.json"}
_DIGEST_CHARS: Final = 16
# File times are coarse (4 ms on Linux, 2 s on FAT): a file changed just now may change unseen.
_SETTLED_S: Final = 2.0
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FOLDER: Final = re.compile(r"models--(?:.+--)?(.+?)$")
# Weights in formats that are not read here.
_NOT_READ: Final = (
    "*.onnx", "onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.gguf", "imgs/*",
)  # fmt: skip


def find_folder(model: str) -> Path:
    """Return the folder of a model: a path, or a name that the Hugging Face cache or hub knows."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    if model.startswith(".") or not _HUB_NAME.fullmatch(model):
        raise ValueError(f"there is no model folder at {model}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(model, ignore_patterns=list(_NOT_READ)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"model {model!r} is no folder here, is not in the Hugging Face cache, and could not "
            f"be fetched ({type(error).__name__}); give the path of its folder, or 'lexical' for "
            "the built-in encoder"
        ) from error


def digest_files(root: Path, folders: list[Path]) -> str:
    """Digest every file that decides a vector: a changed weight is another revision."""
    found = {file for folder in [root, *folders] for file in _decisive_files(folder)}
    content = [[str(file.relative_to(root)), _checksum(file)] for file in sorted(found)]
    return hashlib.sha256(to_json(content).encode()).hexdigest()[:_DIGEST_CHARS]


def _checksum(file: Path) -> str:
    """Return a file's checksum, read once a process: every side and job asks again."""
    found = file.stat()
    if time.time() - max(found.st_mtime, found.st_ctime) < _SETTLED_S:
        return checksum(file)
    return _checksum_of(
        file.resolve(), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    )


@lru_cache(maxsize=1024)
def _checksum_of(file: Path, *_state: int) -> str:
    # The state is the key: a file whose time of change is another one is read again.
    return checksum(file)


def _decisive_files(folder: Path) -> Iterator[Path]:
    files = {file for pattern in _DECISIVE for file in folder.glob(pattern) if file.is_file()}
    # A pytorch_model.bin beside safetensors is not read.
    has_safetensors = any(file.suffix == ".safetensors" for file in files)
    for file in files:
        if file.name not in _BOOKKEEPING and not (has_safetensors and file.suffix == ".bin"):
            yield file


def short_name(path: Path, model: str) -> str:
    """Name a model like its folder; a folder of the Hugging Face cache is named by its hash."""
    if path.parent.name == "snapshots":
        found = _HUB_FOLDER.search(path.parent.parent.name)
        if found:
            return found[1]
    return path.name if Path(model).is_dir() else model.rsplit("/", 1)[-1]


def read_json(path: Path) -> dict[str, Any]:
    """Read a settings file; one that is not there sets nothing."""
    content = load_json(path) if path.exists() else {}
    return content if isinstance(content, dict) else {}


def load_json(path: Path) -> Any:
    """Read a file of JSON; raise ValueError with its name where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
