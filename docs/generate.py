"""Write the generated pages of the documentation. Run by ``make docs``."""

import sys
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from catalog.schema import TABLES, sql_type  # noqa: E402
from curation import signals  # noqa: E402
from lode import app  # noqa: E402


def pages() -> dict[str, str]:
    """Return every generated page by file name."""
    return {"signals.md": signals.markdown(), "commands.md": commands(), "tables.md": tables()}


def commands() -> str:
    """Write the reference of the command line."""
    lines = ["# Commands", "", "Generated from the program; `lode COMMAND --help` prints the same."]
    for path, command in _commands(typer.main.get_command(app), ("lode",)):
        lines += ["", f"## {' '.join(path)}", "", (command.help or "").strip(), ""]
        for parameter in command.params:
            name = (
                ", ".join(parameter.opts) if parameter.opts[0].startswith("-") else parameter.name
            )
            about = (getattr(parameter, "help", None) or "").strip()
            lines.append(f"- `{name}` {about}".rstrip())
    return "\n".join(lines).rstrip() + "\n"


def tables() -> str:
    """Write the reference of the catalog's tables."""
    lines = [
        "# Tables",
        "",
        "Generated from `catalog/schema.py`. Signal tables: see [signals](signals.md).",
    ]
    for name, schema in TABLES.items():
        lines += ["", f"## {name}", "", "| column | type | null |", "|---|---|---|"]
        for field in schema:
            null = "yes" if field.nullable else ""
            lines.append(f"| {field.name} | {sql_type(field.type)} | {null} |")
    return "\n".join(lines) + "\n"


def _commands(group: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """List the commands of a group and of the groups in it, by name."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            if command.invoke_without_command:  # does something by itself, such as lode recipes
                found.append(((*path, name), command))
            found += _commands(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


if __name__ == "__main__":
    for name, text in pages().items():
        (ROOT / "docs" / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"docs/{name}\n")
