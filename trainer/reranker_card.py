"""Cards of rerankers: what a checkpoint was trained from, so that it can be made again."""

import json

from catalog.pack import Pack
from catalog.version import code_version
from trainer.cards import license_lines, processes_line
from trainer.checkpoints import Progress
from trainer.reranker_settings import RerankSettings
from trainer.run_folder import RunPlace


def write_reranker_card(
    place: RunPlace, settings: RerankSettings, pack: Pack, progress: Progress, steps: int
) -> str:
    """Write the card of a checkpoint: base, data with licenses, settings."""
    snapshot = place.snapshot
    first, end = settings.candidate_ranks
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: text-ranking",
        "---",
        "",
        f"# {place.name}",
        "",
        f"A reranker trained by Lode ({code_version()}) from `{settings.base}`: step "
        f"{progress.step:,} of {steps:,}, {processes_line(progress)}, {settings.precision}.",
        "",
        "## Data",
        "",
        f"Snapshot `{snapshot.name}`, digest `{snapshot.digest}`, policy `{snapshot.policy.name}` "
        f"version {snapshot.policy_version}: {snapshot.kept:,} of {snapshot.pairs:,} pairs.",
        f"Negatives: {settings.num_negatives} of the candidates of "
        f"`{pack.manifest.settings['candidates_run']}` at ranks {first} to {end - 1}.",
        "",
        "| source | license |",
        "|---|---|",
        *license_lines(place, pack),
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(settings.to_document(), ensure_ascii=False, indent=1),
        "```",
    ]
    return "\n".join(lines) + "\n"
