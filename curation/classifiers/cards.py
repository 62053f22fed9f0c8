"""Cards: what a classifier finds, how it reads, where it comes from, what it was measured to do.

A card is written twice: card.json for programs, card.md for people.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

CARD_FILE: Final = "card.json"
ENGINES: Final = ("fasttext", "transformers")
READS: Final = ("as written", "normalized")
# As for language: almost every passage is read whole, and a book costs what a page costs.
MAX_CHARS: Final = 1_000


@dataclass(frozen=True)
class Card:
    """A classifier's card; `label` is the one whose probability is the signal."""

    name: str
    engine: str
    label: str
    about: str = ""
    file: str | None = None  # of the model, in the card's folder; a Hugging Face folder has many
    sha256: str | None = None  # of that file
    reads: str = READS[0]  # normalized: as a text's key sees it; width and script do not matter
    max_chars: int = MAX_CHARS  # only the first characters of a text are read
    license: str = ""
    data: str = ""  # what it was trained on, and under which terms
    command: str = ""  # that trains it again, to the byte
    limits: str = ""
    training: Mapping[str, Any] = field(default_factory=dict, hash=False)
    evaluation: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check each field; ValueError says what is allowed."""
        for name, allowed in (("engine", ENGINES), ("reads", READS)):
            if getattr(self, name) not in allowed:
                found = getattr(self, name)
                raise ValueError(f"{name} is {found!r}: it is one of {', '.join(allowed)}")
        if not isinstance(self.max_chars, int) or self.max_chars < 1:
            raise ValueError(f"max_chars is {self.max_chars!r}: a whole number, 1 or more")
        for name in ("name", "label"):
            if not (isinstance(getattr(self, name), str) and getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}: a text that is not empty")


def read_card(folder: Path) -> Card:
    """Read a folder's card; ValueError says what is wrong with it."""
    path = folder / CARD_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(set(content) - {one.name for one in fields(Card)})
        if unknown:
            raise ValueError(f"unknown keys {', '.join(unknown)}")
        return Card(**content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no card of a classifier: {error}") from error


def write_card(card: Card, folder: Path) -> None:
    """Write a card for programs and for people."""
    written = json.dumps(asdict(card), ensure_ascii=False, indent=2) + "\n"
    (folder / CARD_FILE).write_text(written, encoding="utf-8")
    (folder / "card.md").write_text(card_markdown(card), encoding="utf-8")


def card_markdown(card: Card) -> str:
    """Write a card for people."""
    reads = f"{card.reads}, the first {card.max_chars:,} characters"
    facts = {
        "Engine": card.engine,
        "Signal": f"probability of the label `{card.label}`",
        "Reads": reads,
        "License": card.license,
        "Data": card.data,
        "Limits": card.limits,
        "SHA-256": card.sha256 and f"`{card.sha256}`",
    }
    lines = [f"# {card.name}", ""]
    lines += [card.about, ""] if card.about else []
    lines += [f"- {name}: {fact}" for name, fact in facts.items() if fact]
    if card.command:
        lines += ["", "Trained, and to be trained again to the byte, by:", ""]
        lines += ["```", card.command, "```"]
    lines += _table("Training", card.training)
    rows = card.evaluation.get("rows")
    if rows:
        lines += ["", "## Held-out figures", "", str(card.evaluation.get("held_out", "")), ""]
        columns = list(rows[0])
        lines += [_row(columns), _row(["---"] * len(columns))]
        lines += [_row([_plain(row[column]) for column in columns]) for row in rows]
    return "\n".join(lines) + "\n"


def _table(title: str, values: Mapping[str, Any]) -> list[str]:
    if not values:
        return []
    rows = [_row([name, _plain(value)]) for name, value in values.items()]
    return ["", f"## {title}", "", _row(["setting", "value"]), _row(["---", "---"]), *rows]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
