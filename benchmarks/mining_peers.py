"""The peers of the mining benchmarks, each as a process of its own, by its real functions.

    python -m benchmarks.mining_peers flagembedding|sentence-transformers FOLDER [--model DIR]
        [--dtype float32|bfloat16]

A folder holds ``pairs.jsonl`` (query, pos), ``pool.jsonl`` (text) and, for a run without a model,
``query_vectors.npy`` and ``passage_vectors.npy`` in the order of the lines. Prints one JSON line.

FlagEmbedding's miner is a script of its repository, which its package leaves out: FLAGEMBEDDING_HN_MINE
names ``scripts/hn_mine.py`` of a clone. This module imports nothing of Lode, so that a peer can have
an environment of its own.
"""  # noqa: E501 - a name cannot be broken

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

DEPTH = 200
NEGATIVES = 7
RELATIVE_MARGIN = 0.95
PEERS = ("flagembedding", "sentence-transformers")
NEGATIVES_FILE = "negatives-{}.jsonl"

Vectors = npt.NDArray[np.float32]


class Precomputed:
    """An encoder that looks vectors up: what every peer's own encoder would have returned.

    It remembers a 64-bit hash of each text, not the text: a peer's memory is its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.device = "cpu"
        self.sides = {
            "query": _hashes(read_lines(folder / "pairs.jsonl", "query")),
            "passage": _hashes(read_lines(folder / "pool.jsonl", "text")),
        }

    def look_up(self, texts: Sequence[str], side: str) -> Vectors:
        hashes, rows = self.sides[side]
        wanted = rows[np.searchsorted(hashes, np.fromiter(map(hash, texts), np.int64, len(texts)))]
        stored = np.load(self.folder / f"{side}_vectors.npy", mmap_mode="r")
        vectors = np.empty((len(wanted), stored.shape[1]), np.float32)
        for start in range(0, len(wanted), 8192):
            vectors[start : start + 8192] = stored[wanted[start : start + 8192]]
        return vectors

    # What FlagEmbedding's miner calls:
    def encode(self, corpus: Sequence[str]) -> Vectors:
        return self.look_up(corpus, "passage")

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        return self.look_up(queries, "query")

    # What sentence-transformers' miner calls:
    def encode_document(self, texts: Sequence[str], **_: object) -> Vectors:
        return self.look_up(texts, "passage")

    def encode_query(self, texts: Sequence[str], **_: object) -> Vectors:
        return self.look_up(texts, "query")

    def get_embedding_dimension(self) -> int:
        width: int = np.load(self.folder / "query_vectors.npy", mmap_mode="r").shape[1]
        return width

    def similarity_pairwise(self, queries: Vectors, passages: Vectors) -> Any:
        from sentence_transformers.util import pairwise_dot_score

        return pairwise_dot_score(queries, passages)


def mine_flagembedding(folder: Path, model: str | None, batch: int) -> Callable[[], None]:
    """Rank to 200, leave out positives and the query's text, draw 7: it knows no margin."""
    script = load_hn_mine()
    encoder = Precomputed(folder) if model is None else _flag_encoder(script, model, batch)
    output = folder / NEGATIVES_FILE.format("flagembedding")

    def run() -> None:
        script.find_knn_neg(
            encoder,
            str(folder / "pairs.jsonl"),
            str(output),
            str(folder / "pool.jsonl"),
            [0, DEPTH],
            NEGATIVES,
            False,
        )

    return run


def mine_sentence_transformers(
    folder: Path, model: str | None, batch: int, dtype: str = "float32"
) -> Callable[[], None]:
    """Rank to 200, leave out positives and what is within the margin, take the first 7."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    encoder: Any = Precomputed(folder)
    if model is not None:
        kwargs = {"torch_dtype": getattr(torch, dtype)}
        encoder = SentenceTransformer(model, device="cpu", model_kwargs=kwargs)
    queries = list(read_lines(folder / "pairs.jsonl", "query"))
    positives = [positive for (positive,) in read_lines(folder / "pairs.jsonl", "pos")]
    dataset = Dataset.from_dict({"query": queries, "positive": positives})
    pool = list(read_lines(folder / "pool.jsonl", "text"))

    def run() -> None:
        mined = mine_hard_negatives(
            dataset,
            encoder,
            corpus=pool,
            range_max=DEPTH,
            relative_margin=1 - RELATIVE_MARGIN,
            num_negatives=NEGATIVES,
            output_format="n-tuple",  # the fastest of its formats
            batch_size=batch,
            use_faiss=True,
            verbose=False,
        )
        mined.to_json(folder / NEGATIVES_FILE.format("sentence-transformers"), force_ascii=False)

    return run


def load_hn_mine() -> ModuleType:
    """Import FlagEmbedding's own script, or say what is missing."""
    path = os.environ.get("FLAGEMBEDDING_HN_MINE", "")
    if not os.path.isfile(path) or importlib.util.find_spec("FlagEmbedding") is None:
        raise SystemExit(
            f"FlagEmbedding is not installed for {sys.executable}, or FLAGEMBEDDING_HN_MINE is "
            f"{path!r}: pip install FlagEmbedding faiss-cpu, git clone "
            "https://github.com/FlagOpen/FlagEmbedding, and set it to scripts/hn_mine.py"
        )
    spec = importlib.util.spec_from_file_location("hn_mine", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules["hn_mine"] = script  # its dataclasses look their module up
    spec.loader.exec_module(script)
    return script


def read_lines(path: Path, field: str) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)[field]


def read_memory(field: str = "VmHWM") -> float:
    """Return this process's peak resident memory in GiB.

    Not ru_maxrss: a process started by a larger one inherits that one's.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 2**20
    raise SystemExit(f"/proc/self/status has no {field}; run this benchmark on Linux")


def measure(run: Callable[[], None]) -> dict[str, float]:
    """Run and return seconds and peak GiB, and what the process held before it began."""
    loaded = read_memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall_s": wall, "cpu_s": cpu, "peak_gib": read_memory(), "loaded_gib": loaded}


def _hashes(texts: Iterator[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    hashes = np.fromiter(map(hash, texts), np.int64)
    rows = np.argsort(hashes, kind="stable")
    if len(np.unique(hashes)) < len(hashes):
        raise SystemExit("two texts have one hash; run again: Python draws another hash each time")
    return hashes[rows], rows


def _flag_encoder(script: ModuleType, model: str, batch: int) -> Any:
    return script.load_model(
        script.ModelArgs(
            embedder_name_or_path=model,
            embedder_model_class="encoder-only-base",
            pooling_method="mean",
            use_fp16=False,
            devices=["cpu"],
            batch_size=batch,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="encode with this folder; without, vectors are looked up")
    parser.add_argument("--batch", type=int, default=32, help="texts a batch of the encoder")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    chosen = parser.parse_args()
    if chosen.peer == PEERS[0] and chosen.dtype != "float32":
        parser.error("FlagEmbedding computes in float32 on CPU; leave --dtype out")
    with contextlib.redirect_stdout(sys.stderr):
        if chosen.peer == PEERS[0]:
            mine = mine_flagembedding(chosen.folder, chosen.model, chosen.batch)
        else:
            mine = mine_sentence_transformers(
                chosen.folder, chosen.model, chosen.batch, chosen.dtype
            )
        found = measure(mine)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
