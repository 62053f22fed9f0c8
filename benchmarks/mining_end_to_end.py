"""From texts to hard negatives with a real encoder, beside the peers with the same model.

    python -m benchmarks.mining_end_to_end --queries 2000 --passages 2000
    FLAGEMBEDDING_HN_MINE=…/scripts/hn_mine.py python -m benchmarks.mining_end_to_end \\
        --flagembedding-python ENV/bin/python --queries 20000 --passages 20000

Writes benchmarks/mining_end_to_end.md. The model is a BERT of 6 layers of 384 with random weights:
as much work as a trained one. Lode embeds both sides of a snapshot and mines, into its catalog; the
peers run their own functions on the same lines. One process each, measured from its start: imports
and the model's loading count. Lode's catalog is ingested and curated before: the peers do neither.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from benchmarks.encoding import ONE_THREAD, make_model
from benchmarks.machine import DATA, describe
from benchmarks.mining_peers import DEPTH, PEERS, RELATIVE_MARGIN, measure, read_lines
from benchmarks.search import LODE, Result, run_miner, write_pairs
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.policies import Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import create_snapshot, load_snapshot
from mining.bfloat16 import cpu_computes_bfloat16
from mining.candidates import FilterSettings
from mining.embed import embed
from mining.encoder import EncoderSettings, Side
from mining.mine import mine
from mining.mine_settings import MineSettings
from mining.search_plan import SearchSettings

SNAPSHOT = "v1"
BFLOAT16 = " in bfloat16"
ALONE = ExecutorSettings(workers=1)  # its threads are those of the peers


def make_catalog(folder: Path) -> None:
    """Ingest and curate the lines, which the peers do not do, and take a snapshot of all."""
    # Mining's process needs none of these.
    from curation.deduplicate import deduplicate
    from curation.duplicates import DuplicateSettings
    from curation.ingest import find_sources, ingest_files
    from curation.measure import MeasureSettings
    from curation.measure import measure as measure_signals
    from curation.signals import SignalSettings

    catalog = Catalog.create(str(folder / "catalog"))
    sources = find_sources([folder / "pairs.jsonl"], sets=["task=retrieval"])
    if (folder / "more.jsonl").exists():
        sources += find_sources([folder / "more.jsonl"], ["positive=text"], ["task=retrieval"])
    ingest_files(catalog, sources, executor=ALONE)
    duplicates = DuplicateSettings()
    measure_signals(
        catalog, MeasureSettings(SignalSettings(), duplicates.minhash, duplicates.text), ALONE
    )
    deduplicate(catalog, duplicates, ALONE)
    commit_policy(catalog, Policy("all", ()))
    create_snapshot(catalog, SNAPSHOT)


def mine_lode(folder: Path, dtype: str, memory_mb: int, threads: int) -> None:
    """Embed both sides and mine."""
    catalog = Catalog.open(str(folder / "catalog"))
    snapshot = load_snapshot(catalog, SNAPSHOT)
    encoder = EncoderSettings(
        str(folder / "model"), name="benchmark", device="cpu", dtype=dtype, threads=threads
    )
    for side in get_args(Side):
        embed(catalog, snapshot, encoder, side, ALONE)
    settings = MineSettings(
        depth=DEPTH,
        filters=FilterSettings(relative_margin=RELATIVE_MARGIN),
        search=SearchSettings(memory_mb=memory_mb, threads=threads, device="cpu"),
    )
    print(mine(catalog, snapshot, settings, encoder, ALONE).summary(), file=sys.stderr)


def write_others(folder: Path) -> None:
    """Write the passages of the pool that answer no query: Lode reads each text once."""
    known = {positive for (positive,) in read_lines(folder / "pairs.jsonl", "pos")}
    more = [text for text in read_lines(folder / "pool.jsonl", "text") if text not in known]
    if more:
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in more)
        (folder / "more.jsonl").write_text("".join(lines), encoding="utf-8")


def run_all(folder: Path, chosen: argparse.Namespace) -> list[Result]:
    """Run Lode in the precision that it chooses and in float32, and the peers."""
    model = ["--model", str(folder / "model"), "--batch", str(chosen.batch)]
    peer = ["-m", "benchmarks.mining_peers"]
    lode = [
        sys.executable, "-m", "benchmarks.mining_end_to_end", "--lode", str(folder),
        "--memory-mb", str(chosen.memory_mb), "--threads", str(chosen.threads), "--dtype",
    ]  # fmt: skip
    theirs = [sys.executable, *peer, PEERS[1], str(folder), *model]
    # Without instructions for it bfloat16 is slower: the fastest is float32.
    halves = cpu_computes_bfloat16()
    commands = {
        **({LODE: [*lode, "fastest"]} if halves else {}),
        f"{LODE} in float32": [*lode, "float32"],
        PEERS[1]: theirs,
        **({PEERS[1] + BFLOAT16: [*theirs, "--dtype", "bfloat16"]} if halves else {}),
        PEERS[0]: [chosen.flagembedding_python, *peer, PEERS[0], str(folder), *model],
    }
    results = []
    for name, command in commands.items():
        if name.startswith(LODE) or name.removesuffix(BFLOAT16) in chosen.peers:
            results.append(run_miner(name, command, chosen.threads, chosen.limit_s))
            print(results[-1], flush=True)
    return results


def table_of(results: Sequence[Result]) -> list[str]:
    """Compare whole processes with Lode's first."""
    lode, single = results[0], next(one for one in results if one.name.endswith("float32"))
    lines = ["| miner | wall s | CPU s | peak GiB | Lode: times faster by CPU | "
             "Lode in float32: by CPU |", "|---|---|---|---|---|---|"]  # fmt: skip
    for result in results:
        if result.failure:
            lines.append(f"| {result.name} | {result.failure} | | | | |")
            continue
        lines.append(
            f"| {result.name} | {result.process_wall_s:.1f} | {result.process_cpu_s:.1f} | "
            f"{result.peak_gib:.2f} | {result.process_cpu_s / lode.process_cpu_s:.2f} | "
            f"{result.process_cpu_s / single.process_cpu_s:.2f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--pairs", nargs="+", default=[str(DATA / "pairs" / "*.parquet")])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory-mb", type=int, default=128, help="Lode's search buffers")
    parser.add_argument("--batch", type=int, default=32, help="the peers' texts a batch")
    parser.add_argument("--limit-s", type=int, default=3600, help="for each miner")
    parser.add_argument("--flagembedding-python", default=sys.executable)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--report", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--lode", type=Path, metavar="FOLDER", help="be Lode's process")
    parser.add_argument("--curate", type=Path, metavar="FOLDER", help="make Lode's catalog")
    parser.add_argument("--layers", type=int, default=6, help="of the random BERT")
    parser.add_argument("--width", type=int, default=384, help="of its layers")
    parser.add_argument("--dtype", default="fastest", help="of Lode's process")
    chosen = parser.parse_args()
    if chosen.curate:
        make_catalog(chosen.curate)
        return
    if chosen.lode:
        settings = (chosen.dtype, chosen.memory_mb, chosen.threads)
        print(json.dumps(measure(lambda: mine_lode(chosen.lode, *settings))))
        return
    os.environ["HF_HUB_OFFLINE"] = ONE_THREAD["HF_HUB_OFFLINE"]
    with tempfile.TemporaryDirectory(prefix="lode-mining-") as temporary:
        folder = Path(temporary)
        write_pairs(folder, chosen.pairs, chosen.queries, chosen.passages)
        write_others(folder)
        passages = list(read_lines(folder / "pool.jsonl", "text"))
        make_model(folder / "model", passages, chosen.layers, chosen.width)
        curate = [sys.executable, "-m", "benchmarks.mining_end_to_end", "--curate", str(folder)]
        subprocess.run(curate, check=True)
        results = run_all(folder, chosen)
        queries = sum(1 for _ in read_lines(folder / "pairs.jsonl", "query"))
    characters = sum(map(len, passages)) / len(passages)
    text = "\n".join(
        [
            "# Mining from texts to negatives",
            "",
            f"`python -m benchmarks.mining_end_to_end --queries {chosen.queries} --passages "
            f"{chosen.passages} --threads {chosen.threads}`; target: twice as fast as both peers.",
            "",
            describe(["torch", "transformers", "sentence-transformers", "faiss-cpu", "numba"]),
            "",
            f"{queries:,} queries, {len(passages):,} passages of {characters:.0f} characters on "
            f"average; BERT, {chosen.layers} layers of {chosen.width}, random weights, mean "
            "pooling, 512 tokens;",
            f"{chosen.threads} threads, the peers' batches hold {chosen.batch} texts.",
            "Whole processes, with imports and loading. Lode embeds and mines a snapshot, by",
            "default in the precision that is fastest here; the peers read their lines, encode",
            "(by default in float32), and write texts.",
            "",
            *table_of(results),
            "",
        ]
    )
    chosen.report.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
