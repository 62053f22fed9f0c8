"""Where classifiers are: a folder with a card, a fastText file, a Hugging Face folder, ours."""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from curation.classifiers.cards import CARD_FILE, Card, read_card

SHIPPED: Final = Path(__file__).parent.parent / "assets" / "classifiers"
FASTTEXT_ENDINGS: Final = (".bin", ".ftz")
# What a Hugging Face folder's scores depend on; model cards and pictures are not among it.
_MODEL_ENDINGS: Final = (".json", ".safetensors", ".bin", ".txt", ".model", ".py")
# A tokenizer cuts a text at the model's own limit, which is less than this in any script.
TRANSFORMERS_MAX_CHARS: Final = 8_192


@dataclass(frozen=True)
class Place:
    """A classifier that was found: its card, and the file or folder of its model."""

    card: Card
    model: Path

    def fingerprint(self) -> str:
        """Name by eight hexadecimal digits what decides a score: model, label, how it reads."""
        folder = self.model if self.model.is_dir() else self.model.parent
        files = model_files(self.model)
        parts: list[object] = [(str(one.relative_to(folder)), file_digest(one)) for one in files]
        card = self.card
        parts += [card.engine, card.label, card.reads, card.max_chars]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def find_classifier(name: Path | str) -> Place:
    """Find a classifier by path or by the name of a shipped one; a label may follow after a #.

    ValueError says what is not there or does not fit its card.
    """
    written, _, label = str(name).partition("#")
    path = Path(written)
    if not path.exists():
        if written not in shipped_classifiers():
            shipped = ", ".join(shipped_classifiers()) or "none"
            raise ValueError(
                f"there is no classifier {written!r}: give a folder with a card.json, a fastText "
                f"file, a Hugging Face folder, or the name of a shipped one ({shipped})"
            )
        path = SHIPPED / written
    if (path / CARD_FILE).is_file():
        place = _with_card(path)
        return replace(place, card=replace(place.card, label=label)) if label else place
    return _without_card(path, label)


def shipped_classifiers() -> list[str]:
    """List the names of the classifiers that come with Lode."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD_FILE}"))


def name_from(folder: Path, name: str) -> str:
    """Give the classifier that a file in this folder names: a path from there, or a shipped one."""
    written, mark, label = name.partition("#")
    path = folder / written
    return f"{path}{mark}{label}" if path.exists() else name


def _with_card(folder: Path) -> Place:
    card = read_card(folder)
    if card.file is None:
        return Place(card, folder)
    model = folder / card.file
    if not model.is_file():
        raise ValueError(f"{folder} has no file {card.file}, which its card names; copy it there")
    if card.sha256 and file_digest(model) != card.sha256:
        raise ValueError(
            f"{model} is not the file that its card describes (SHA-256 {card.sha256[:12]}…); "
            "copy both again, or train it again"
        )
    return Place(card, model)


def _without_card(path: Path, label: str) -> Place:
    if path.is_file() and path.suffix in FASTTEXT_ENDINGS:
        kind, max_chars = "fasttext", Card.max_chars
    elif (path / "config.json").is_file():
        kind, max_chars = "transformers", TRANSFORMERS_MAX_CHARS
    else:
        raise ValueError(
            f"{path} is no classifier: it is neither a folder with a card.json or a config.json, "
            f"nor a file that ends in {' or '.join(FASTTEXT_ENDINGS)}"
        )
    if not label:
        raise ValueError(
            f"{path} has no card.json that says which label is the signal: write {path}#LABEL "
            f"(its labels: {', '.join(_labels(path, kind))})"
        )
    return Place(Card(path.stem, kind, label, max_chars=max_chars), path)


def _labels(path: Path, kind: str) -> tuple[str, ...]:
    if kind == "fasttext":
        from curation.signals.language_model import read_file

        return read_file(path).labels
    from curation.classifiers.transformer_engine import config_labels

    return config_labels(path)


def model_files(model: Path) -> list[Path]:
    """List the files that decide a classifier's scores, in order."""
    if model.is_file():
        return [model]
    found = (path for path in model.iterdir() if path.suffix in _MODEL_ENDINGS)
    return sorted(path for path in found if path.name != CARD_FILE)


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, once as long as it is not written to."""
    facts = path.stat()
    return _file_digest(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
