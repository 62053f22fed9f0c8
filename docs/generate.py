"""Write the generated pages of the documentation. Run by ``make docs``."""

import sys
from pathlib import Path

import click
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
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group)
    for path, command in _commands(root, ("lode",)):
        lines += ["", f"## {' '.join(path)}", "", (command.help or "").strip(), "", "```"]
        lines += [_usage(path, command), "```", ""]
        for parameter in command.params:
            record = parameter.get_help_record(click.Context(command))
            if record is not None and "--help" not in record[0]:
                lines.append(f"- `{record[0]}` {record[1]}".rstrip())
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


def _commands(
    group: click.Group, path: tuple[str, ...]
) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            found += _commands(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


def _usage(path: tuple[str, ...], command: click.Command) -> str:
    pieces = command.collect_usage_pieces(click.Context(command))
    return " ".join([*path, *pieces])


if __name__ == "__main__":
    for name, text in pages().items():
        (ROOT / "docs" / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"docs/{name}\n")
