"""What is written down is run: README commands, generated pages, every command documented."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GENERATED = ("signals.md", "commands.md", "tables.md")


def readme_commands() -> list[str]:
    """Lines of the README's console blocks that begin with ``$ lode``, in order."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [
        line.removeprefix("$ ")
        for block in blocks
        for line in block.splitlines()
        if line.startswith("$ lode")
    ]


@pytest.mark.slow
def test_every_readme_command_runs(tmp_path: Path) -> None:
    commands = readme_commands()
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command)
        done = subprocess.run(
            [sys.executable, "-m", "lode", *words[1:]],
            cwd=tmp_path,
            env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("name", GENERATED)
def test_generated_pages_are_up_to_date(name: str) -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    import generate

    stored = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert stored == generate.pages()[name], "run: make docs"


def test_no_page_names_a_command_that_does_not_exist() -> None:
    known = set(re.findall(r"^## (lode [\w -]+)$", (ROOT / "docs/commands.md").read_text(), re.M))
    assert known
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for line in page.read_text(encoding="utf-8").splitlines():
            found = re.match(r"(?:\$ )?lode ([a-z-]+)(?: ([a-z_]+))?", line)
            if found:
                one, two = f"lode {found[1]}", f"lode {found[1]} {found[2]}"
                assert one in known or two in known, f"{page.name}: {line}"
