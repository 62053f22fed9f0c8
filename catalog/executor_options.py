"""The options that say where the tasks of a command run, and the recipe's [executor]."""

import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from catalog.executors import ExecutorSettings
from catalog.ray_tasks import RaySettings
from catalog.recipe_files import check_keys, find_recipe, read_recipe
from catalog.slurm import SlurmSettings

SECTION: Final = "executor"
LOCAL: Final = "local"
CLUSTERS: Final[dict[str, type[SlurmSettings] | type[RaySettings]]] = {
    "slurm": SlurmSettings,
    "ray": RaySettings,
}
DEFAULT_WORKERS: Final = ExecutorSettings().workers

WorkersOption = Annotated[
    int, typer.Option("--workers", "-w", help="Processes at a time, on this machine.")
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor", help="Where tasks run: local, slurm or ray (default: the recipe's, or local)."
    ),
]
ClusterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cluster",
        help="SETTING=VALUE of the recipe's [executor], such as partition=cpu; or a TOML file "
        "that has that section.",
    ),
]
WaitOption = Annotated[
    bool,
    typer.Option(help="Slurm: wait for the tasks, or submit and end; the same command goes on."),
]


def choose_executor(
    workers: int,
    executor: str | None,
    cluster: Sequence[str] | None,
    wait: bool,
    recipe: Path | str | None = None,
) -> ExecutorSettings:
    """Read and check where tasks are to run; a cluster is asked whether it takes such tasks."""
    document = _document(cluster or (), recipe, executor)
    kind = executor or document.pop("kind", LOCAL)
    if kind == LOCAL:
        if cluster or not wait:
            given = "--cluster" if cluster else "--no-wait"
            raise ValueError(f"{given} needs --executor slurm or ray; tasks run on this machine")
        return ExecutorSettings(workers)
    if kind not in CLUSTERS:
        raise ValueError(f"executor is {kind!r}; allowed are {', '.join((LOCAL, *CLUSTERS))}")
    if not wait:
        if kind != "slurm":
            raise ValueError("--no-wait is for Slurm: tasks of Ray end with the command")
        document["wait"] = False
    settings = parse_cluster(kind, document)
    settings.check()
    return ExecutorSettings(workers, cluster=settings)


def parse_cluster(kind: str, document: dict[str, Any]) -> SlurmSettings | RaySettings:
    """Make a cluster's settings of the section's keys; raise where one is unknown or of no use."""
    allowed = {field.name: field for field in fields(CLUSTERS[kind])}
    check_keys(Path(f"executor {kind}"), SECTION, document, allowed)
    for key, value in document.items():
        wanted = dict if key == "sbatch" else type(getattr(CLUSTERS[kind], key))
        if type(value) is not wanted and (type(value), wanted) != (int, float):
            raise ValueError(f"[executor] {key} is {value!r}; its type is {wanted.__name__}")
    return CLUSTERS[kind](**document)


def _document(
    given: Sequence[str], recipe: Path | str | None, executor: str | None
) -> dict[str, Any]:
    """Gather settings, later ones winning; a section for another executor says nothing here."""
    document: dict[str, Any] = {}
    files = [recipe] if recipe is not None else []
    for path in [*files, *(entry for entry in given if "=" not in entry)]:
        section = read_recipe(find_recipe(path)).get(SECTION, {})
        if executor in (None, section.get("kind", executor)):
            document |= section
    for entry in given:
        name, equals, text = entry.partition("=")
        if equals:
            document[name.strip()] = _value(text)
    if executor is not None:
        document.pop("kind", None)
    return document


def _value(text: str) -> Any:
    """Read a number, a table or a word; 02:00:00 is a word here, though a time in TOML."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, (bool, int, float, dict, str)) else text
