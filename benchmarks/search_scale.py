"""Can ten million passages be searched exactly within 4 GB of memory?

    python -m benchmarks.search_scale --passages 2000000
    python -m benchmarks.search_scale --passages 10000000    # 7.7 GB on disk

Writes benchmarks/search_scale.md. Passages are random unit vectors of 384 dimensions, float16, in
shards on disk, each drawn from a hash of (seed, block). The search is a process of its own. What
some queries found is compared with brute force.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe
from benchmarks.mining_peers import measure
from catalog.draws import draw
from mining.search import search
from mining.search_plan import SearchSettings

WIDTH = 384
K = 200
BLOCK_ROWS = 100_000
SEED = 1
CHECKED_QUERIES = 5
MEMORY_GIB = 4.0

Half = npt.NDArray[np.float16]


def random_vectors(purpose: str, block: int, rows: int) -> Half:
    """Return unit vectors that depend on the seed, the purpose and the block alone."""
    state = int(draw(SEED, purpose, np.array([block]))[0])
    vectors = np.random.default_rng(state).standard_normal((rows, WIDTH), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16)


def write_shards(folder: Path, passages: int) -> list[Path]:
    """Write the passages as the shards of an embedding store are: one array a file."""
    paths = []
    for block, first in enumerate(range(0, passages, BLOCK_ROWS)):
        paths.append(folder / f"passages-{block:05}.npy")
        rows = min(BLOCK_ROWS, passages - first)
        np.save(paths[-1], random_vectors("passages", block, rows))
    return paths


def open_shards(folder: Path) -> list[Half]:
    return [np.load(path, mmap_mode="r") for path in sorted(folder.glob("passages-*.npy"))]


def search_shards(folder: Path, memory_mb: int, threads: int) -> None:
    """Search all shards as one corpus, and keep what was found."""
    queries = np.load(folder / "queries.npy")
    settings = SearchSettings(memory_mb=memory_mb, threads=threads, device="cpu")
    rows, scores = search(queries, open_shards(folder), K, settings)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "scores.npy", scores)


def brute_force(folder: Path, queries: Half) -> tuple[npt.NDArray, npt.NDArray]:
    """Return the best rows and scores: float64 sums rounded to float32, equal ones by row."""
    scores = np.concatenate(list(_scores(folder, queries)), axis=1)
    rows = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.lexsort((rows, -scores))[:, :K]
    return order, np.take_along_axis(scores, order, axis=1)


def _scores(folder: Path, queries: Half) -> Iterator[npt.NDArray[np.float32]]:
    for shard in open_shards(folder):
        product = queries.astype(np.float64) @ shard.astype(np.float64).T
        yield product.astype(np.float32)


def run_search(folder: Path, chosen: argparse.Namespace) -> dict[str, float]:
    command = [
        sys.executable, "-m", "benchmarks.search_scale", "--search", str(folder),
        "--memory-mb", str(chosen.memory_mb), "--threads", str(chosen.threads),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(chosen.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_disk(folder: Path, passages: int) -> None:
    needed = passages * WIDTH * 2
    free = shutil.disk_usage(folder).free
    if free < needed * 1.2:
        raise SystemExit(
            f"{folder} has {free / 1e9:.1f} GB free; {passages:,} passages take "
            f"{needed / 1e9:.1f} GB: name another folder by TMPDIR, or search fewer"
        )


def report(found: dict[str, float], passages: int, chosen: argparse.Namespace, same: int) -> str:
    products = 2 * chosen.queries * passages * WIDTH
    return "\n".join(
        [
            "# Exact search of a large corpus in little memory",
            "",
            f"`python -m benchmarks.search_scale --passages {passages} --queries {chosen.queries} "
            f"--memory-mb {chosen.memory_mb} --threads {chosen.threads}`; target: 10M x {WIDTH} "
            f"within {MEMORY_GIB:.0f} GB.",
            "",
            describe(["torch", "numpy", "numba"]),
            "",
            "| | |",
            "|---|---|",
            f"| passages | {passages:,} x {WIDTH} float16, {passages * WIDTH * 2 / 1e9:.1f} GB on "
            f"disk in {-(-passages // BLOCK_ROWS)} shards |",
            f"| queries, depth | {chosen.queries:,}, {K} |",
            f"| wall seconds | {found['wall_s']:.1f} |",
            f"| CPU seconds | {found['cpu_s']:.1f} |",
            f"| CPU milliseconds a query | {found['cpu_s'] / chosen.queries * 1e3:.1f} |",
            f"| products, selection and exact scores | {products / found['cpu_s'] / 1e9:.0f} "
            "GFLOP per CPU-second |",
            f"| peak memory | {found['peak_gib']:.2f} GiB, of it {found['loaded_gib']:.2f} before "
            "the search (interpreter, torch) |",
            f"| same rows and scores as brute force | {same} of {CHECKED_QUERIES} queries |",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--passages", type=int, default=10_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--memory-mb", type=int, default=512, help="the search's buffers")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--report", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--search", type=Path, metavar="FOLDER", help="be the search's process")
    chosen = parser.parse_args()
    if chosen.search:
        print(
            json.dumps(
                measure(lambda: search_shards(chosen.search, chosen.memory_mb, chosen.threads))
            )
        )
        return
    with tempfile.TemporaryDirectory(prefix="lode-scale-") as made:
        folder = Path(made)
        check_disk(folder, chosen.passages)
        write_shards(folder, chosen.passages)
        queries = random_vectors("queries", 0, chosen.queries)
        np.save(folder / "queries.npy", queries)
        found = run_search(folder, chosen)
        rows, scores = np.load(folder / "rows.npy"), np.load(folder / "scores.npy")
        drawn = draw(SEED, "checked queries", np.arange(len(queries)))
        checked = np.argsort(drawn, kind="stable")[:CHECKED_QUERIES]
        right_rows, right_scores = brute_force(folder, queries[checked])
    same = int(
        ((rows[checked] == right_rows) & (scores[checked] == right_scores)).all(axis=1).sum()
    )
    text = report(found, chosen.passages, chosen, same)
    chosen.report.write_text(text, encoding="utf-8")
    print(text)
    if same < len(checked) or found["peak_gib"] > MEMORY_GIB:
        raise SystemExit("the search is wrong, or took more memory than it may")


if __name__ == "__main__":
    main()
