"""How many requests a second does the client of a language model manage, beside datatrove's?

    python -m benchmarks.synthesis [SEEDS]      # writes benchmarks/synthesis.md, half a minute

Both sides ask the same requests (the shipped prompt queries-zh about generated passages of 300
characters, by JSON schema) of the same small server of the tests, a process of its own that answers
at once: what is measured is the client. Lode reads and checks every answer and writes it to its
journal, synced in groups; the peer, datatrove's ``InferenceRunner`` with ``server_type="endpoint"``
returns the text, which its writer saves, once without and once with its checkpoints, which like our
journal let a killed run go on. It needs aiofiles and aiosqlite beside datatrove. All run in this
process, by turns; its CPU seconds count, and the machine's load shows in the wall clock.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.writers import JsonlWriter
from loguru import logger

from benchmarks.machine import describe
from curation.synthesis.asking import Asking
from curation.synthesis.endpoint import Endpoint
from curation.synthesis.journal import Journal
from curation.synthesis.prompts import load_prompt
from curation.synthesis.seeds import Seed
from curation.synthesis.settings import SynthesisSettings

ROUNDS = 3
CONCURRENCY = 64
SETTINGS = SynthesisSettings("tiny", load_prompt("queries-zh"))
PACKAGES = ("aiohttp", "datatrove")


def main() -> None:
    seeds = make_seeds(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
    logger.remove()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.llm_server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    try:
        sides: dict[str, Callable[[str, list[Seed], Path], int]] = {
            "lode": ask_lode, "InferenceRunner": ask_peer,
            "InferenceRunner with checkpoints": ask_peer_resumable,
        }  # fmt: skip
        ask_lode(url, seeds[:50], Path(tempfile.mkdtemp()))  # compiled code is loaded
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(ROUNDS):
            for name, side in sides.items():
                figures[name].append(measure(side, url, seeds))
    finally:
        server.kill()
    text = report(figures, len(seeds))
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def make_seeds(count: int) -> list[Seed]:
    return [Seed(n, f"第{n}段：" + "光合作用把光能变成化学能，" * 24) for n in range(count)]


def ask_lode(url: str, seeds: list[Seed], folder: Path) -> int:
    with Journal(folder / "journal") as journal:
        endpoint = Endpoint(url, CONCURRENCY)
        Asking(SETTINGS, endpoint, journal, lambda done: None).ask_all(seeds, 0)
    return sum(done.reason is None for done in journal.finished.values())


def ask_peer_resumable(url: str, seeds: list[Seed], folder: Path) -> int:
    return ask_peer(url, seeds, folder, str(folder / "checkpoints"))


def ask_peer(url: str, seeds: list[Seed], folder: Path, checkpoints: str | None = None) -> int:
    bodies = {str(seed.pair_id): SETTINGS.body(seed, 1) for seed in seeds}

    async def rollout(document: Document, generate: Any) -> str:
        result = await generate(bodies[document.id])
        return result.text

    runner = InferenceRunner(
        rollout,
        InferenceConfig(
            server_type="endpoint", model_name_or_path="tiny", endpoint_url=url,
            max_concurrent_generations=CONCURRENCY, metric_interval=3600,
        ),
        JsonlWriter(
            str(folder), output_filename="${rank}_${chunk_index}.jsonl", compression=None
        ),
        checkpoints_local_dir=checkpoints,
    )  # fmt: skip
    documents = (Document(text=seed.passage, id=str(seed.pair_id)) for seed in seeds)
    for _ in runner.run(documents, 0, 1) or ():
        pass
    rows = [
        line
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return sum("queries" in str(json.loads(row)["metadata"]) for row in rows)


def measure(
    side: Callable[[str, list[Seed], Path], int], url: str, seeds: list[Seed]
) -> tuple[float, float]:
    """Return requests per CPU second and per second."""
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        answered = side(url, seeds, Path(folder))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert answered == len(seeds), (answered, len(seeds))
    return len(seeds) / cpu, len(seeds) / wall


def report(figures: dict[str, list[tuple[float, float]]], seeds: int) -> str:
    lines = [
        "# Requests to a language model",
        "",
        "`python -m benchmarks.synthesis`; see its docstring for what is compared.",
        "",
        describe(PACKAGES),
        "",
        f"{seeds:,} requests, {CONCURRENCY} at a time, {ROUNDS} rounds; the machine had other "
        "work, so CPU seconds count.",
        "",
        "| client | requests per CPU second (median, min–max) | per second (median) |",
        "|---|---|---|",
    ]
    for name, rounds in figures.items():
        cpu = [one for one, _ in rounds]
        wall = statistics.median(two for _, two in rounds)
        middle = statistics.median(cpu)
        lines.append(f"| {name} | {middle:,.0f} ({min(cpu):,.0f}–{max(cpu):,.0f}) | {wall:,.0f} |")
    middles = {name: statistics.median(c for c, _ in rounds) for name, rounds in figures.items()}
    ratios = [f"{middles['lode'] / one:.1f} × {name}" for name, one in middles.items()]
    lines += ["", f"In CPU seconds, lode is {', '.join(ratios[1:])}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
