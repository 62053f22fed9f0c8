"""Model cards: what a checkpoint was trained from, so that it can be made again."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from catalog.pack import Pack
from catalog.version import code_version
from trainer.checkpoints import Progress
from trainer.pretrain_settings import PretrainSettings
from trainer.settings import ContrastiveTask, TrainSettings

if TYPE_CHECKING:
    from trainer.run_folder import RunPlace


def write_card(
    place: "RunPlace", settings: TrainSettings, pack: Pack, progress: Progress, steps: int
) -> str:
    """Write the card of a checkpoint: base, data with licenses, settings."""
    snapshot = place.snapshot
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "---",
        "",
        f"# {place.name}",
        "",
        f"Trained by Lode ({code_version()}) from `{settings.model.base}`: step {progress.step:,} "
        f"of {steps:,}, {processes_line(progress)}, {settings.precision}.",
        "",
        "## Data",
        "",
        f"Snapshot `{snapshot.name}`, digest `{snapshot.digest}`, policy `{snapshot.policy.name}` "
        f"version {snapshot.policy_version}: {snapshot.kept:,} of {snapshot.pairs:,} pairs.",
        f"Hard negatives: {pack.manifest.settings['candidates_run'] or 'none mined'}"
        f" (rule {settings.negatives.rule}).",
        "",
        "| source | license |",
        "|---|---|",
        *license_lines(place, pack),
        "",
        "## Tasks",
        "",
        *(_task_line(name, task) for name, task in settings.tasks.items()),
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(settings.to_document(), ensure_ascii=False, indent=1, default=str),
        "```",
    ]
    return "\n".join(lines) + "\n"


def write_pretraining_card(
    place: "RunPlace", settings: PretrainSettings, pack: Pack, progress: Progress, steps: int
) -> str:
    """Write the card of a checkpoint of pre-training."""
    snapshot, mask = place.snapshot, settings.mask
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "---",
        "",
        f"# {place.name}",
        "",
        f"Pre-trained by Lode ({code_version()}) with RetroMAE (arXiv 2205.12035) from "
        f"`{settings.model.base}`: step {progress.step:,} of {steps:,}, "
        f"{processes_line(progress)}, {settings.precision}. A base for training, no finished "
        "embedding model.",
        "",
        "## Data",
        "",
        f"{pack.num_texts('passage'):,} passages of snapshot `{snapshot.name}`, digest "
        f"`{snapshot.digest}`, policy `{snapshot.policy.name}` version {snapshot.policy_version}.",
        f"Hidden: {mask.encoder_share:g} of the encoder's tokens, {mask.decoder_share:g} of the "
        f"decoder's; whole words: {mask.words}.",
        "",
        "| source | license |",
        "|---|---|",
        *license_lines(place, pack),
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(asdict(settings), ensure_ascii=False, indent=1),
        "```",
    ]
    return "\n".join(lines) + "\n"


def processes_line(progress: Progress) -> str:
    """Say how many processes trained, and from which step on: sums are rounded by that."""
    parts = [f"{count} from step {since:,} on" for since, count in progress.processes]
    if len(parts) == 1:
        return f"processes: {progress.processes[0][1]}"
    return f"processes: {', '.join(parts)} (the order of the data went on)"


def license_lines(place: "RunPlace", pack: Pack) -> list[str]:
    """Write a row of a table for every source: its license."""
    with place.catalog.reader(place.snapshot.lake_version) as connection:
        rows = connection.execute("select source, any_value(license) from sources group by 1")
        known = dict(rows.fetchall())
    sources = pack.manifest.sources
    return [f"| {source} | {known.get(source) or 'not stated'} |" for source in sources]


def _task_line(name: str, task: object) -> str:
    kind = "InfoNCE" if isinstance(task, ContrastiveTask) else "CoSENT"
    batch, weight = getattr(task, "batch", 0), getattr(task, "weight", 1.0)
    return f"- {name}: {kind}, {batch} pairs an update, weight {weight:g}"
