"""How many tokens a core-second does an encoder read, beside sentence-transformers?

    python -m benchmarks.encoding [DATA] [TEXTS]    # writes benchmarks/encoding.md, three minutes

Every engine has a process and one thread of its own, loads the same folder (BERT, 6 layers of 384,
random weights) and encodes the same real passages, a systematic sample of all pairs. The engines
take turns, so that each meets the same load of the machine. What counts is their user CPU time.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import DATA, describe

TEXTS = 500
ROUNDS = 3
VOCABULARY = 21_128
MAX_TOKENS = 512
ENGINES = {
    "Lode, bfloat16": ("lode", "bfloat16"),
    "Lode, float32": ("lode", "float32"),
    "sentence-transformers, bfloat16": ("peer", "bfloat16"),
    "sentence-transformers, float32": ("peer", "float32"),
}
PACKAGES = ("torch", "transformers", "tokenizers", "sentence-transformers")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
}


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    count = int(sys.argv[2]) if len(sys.argv) > 2 else TEXTS
    if not (data / "pairs").is_dir():
        sys.exit(f"there is no folder {data / 'pairs'}: name the folder that holds pairs/*.parquet")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        texts = sample(data, count)
        (work / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        make_model(work / "model", texts)
        engines = {name: Engine(work, *kind) for name, kind in ENGINES.items()}
        for engine in engines.values():
            engine.answer()  # it has loaded the model
        for _ in range(ROUNDS):
            for engine in engines.values():
                engine.run()
        found = {name: engine.stop() for name, engine in engines.items()}
        vectors = {name: np.load(work / f"{'-'.join(kind)}.npy") for name, kind in ENGINES.items()}
    text = report(found, vectors, texts)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def sample(data: Path, count: int) -> list[str]:
    """Take passages at equal steps through all files."""
    files = sorted((data / "pairs").glob("*.parquet"))
    passages = pa.concat_tables(pq.read_table(file, columns=["text2"]) for file in files)["text2"]
    passages = passages.filter(pa.compute.greater(pa.compute.utf8_length(passages), 0))
    return passages.take([i * len(passages) // count for i in range(count)]).to_pylist()


def make_model(folder: Path, texts: list[str], layers: int = 6, width: int = 384) -> None:
    """Write a random model whose vocabulary is the characters of the texts, as a published folder.

    A Chinese BERT reads a character as a token; so does this one.
    """
    import torch
    import transformers

    folder.mkdir()
    signs = [sign for sign, _ in Counter("".join(texts).lower()).most_common() if sign.strip()]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs]
    words += [f"##{sign}" for sign in signs if sign.isascii()]
    words += [f"[unused{i}]" for i in range(VOCABULARY - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words[:VOCABULARY]), encoding="utf-8")
    transformers.BertTokenizerFast(
        vocab=str(folder / "vocab.txt"), model_max_length=MAX_TOKENS
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
        max_position_embeddings=MAX_TOKENS,
    )
    transformers.BertModel(config).save_pretrained(folder)
    names = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(names.items())
    ]
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "modules.json").write_text(json.dumps(modules))


class Engine:
    """A process that encodes all texts each time it is told to."""

    def __init__(self, work: Path, kind: str, dtype: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.encoding", "engine", str(work), kind, dtype],
            env=os.environ | ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.rounds: list[float] = []

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit("an engine failed; its reason stands above")
        return json.loads(line)

    def run(self) -> None:
        print("run", file=self.process.stdin, flush=True)
        self.rounds.append(self.answer()["user_s"])

    def stop(self) -> dict:
        print("stop", file=self.process.stdin, flush=True)
        found = self.answer()
        self.process.wait()
        return found | {"rounds": sorted(self.rounds)}


def serve(work: Path, kind: str, dtype: str) -> None:
    """Load a model, then encode for every line that comes; say the CPU seconds each time."""
    answers = os.fdopen(os.dup(1), "w")  # what a library prints goes elsewhere
    os.dup2(2, 1)
    texts = json.loads((work / "texts.json").read_text(encoding="utf-8"))
    encode, count_tokens = (load_lode if kind == "lode" else load_peer)(work / "model", dtype)
    encode(texts[:64])  # the first call makes kernels
    print(json.dumps({}), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        vectors = encode(texts)
        user_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        np.save(work / f"{kind}-{dtype}.npy", np.asarray(vectors, np.float32))
        print(json.dumps({"user_s": user_s}), file=answers, flush=True)
    found = {"peak_gib": peak_gib(), "lengths": count_tokens(texts)}
    print(json.dumps(found), file=answers, flush=True)


def peak_gib() -> float:
    """Read this program's own peak; ru_maxrss would begin with that of the process before it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**20


def load_lode(folder: Path, dtype: str) -> Iterator[object]:
    from mining.encoder import Encoder, EncoderSettings

    encoder = Encoder.load(EncoderSettings(str(folder), device="cpu", dtype=dtype, threads=1))
    yield lambda texts: encoder.encode(texts, "passage")
    yield lambda texts: encoder.tokenize(texts).lengths.tolist()


def load_peer(folder: Path, dtype: str) -> Iterator[object]:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, dtype)}
    )
    yield lambda texts: model.encode(texts, show_progress_bar=False)
    yield lambda texts: [len(ids) for ids in model.tokenizer(texts, truncation=True)["input_ids"]]


# Report -------------------------------------------------------------------------------------------


def report(found: dict[str, dict], vectors: dict[str, np.ndarray], texts: list[str]) -> str:
    lengths = next(iter(found.values()))["lengths"]
    if any(engine["lengths"] != lengths for engine in found.values()):
        sys.exit("the engines read different tokens: their rates cannot be compared")
    spread = np.percentile(lengths, [5, 50, 95]).astype(int)
    lines = [
        "# Encoding",
        "",
        "`python -m benchmarks.encoding`; target: twice sentence-transformers per core.",
        "",
        describe(PACKAGES) + f"; load of the machine {os.getloadavg()[1]:.0f}",
        "",
        f"{len(texts):,} real passages, {sum(lengths):,} tokens after the cut at {MAX_TOKENS}",
        f"(5 % have up to {spread[0]}, half up to {spread[1]}, 95 % up to {spread[2]}); BERT of 6",
        "layers of 384; one thread; user CPU seconds; batches as each engine has them by default.",
        "",
        "| | min s | median s | max s | tokens per core-s | texts per core-s | peak GiB "
        "| least cosine to the last row |",
        "|---|---|---|---|---|---|---|---|",
        *(row(name, engine, vectors[name], vectors) for name, engine in found.items()),
        "",
        *conclusions(found),
        "",
    ]
    return "\n".join(lines)


def row(name: str, engine: dict, own: np.ndarray, vectors: dict[str, np.ndarray]) -> str:
    median = statistics.median(engine["rounds"])
    reference = vectors["sentence-transformers, float32"]
    norms = np.linalg.norm(own, axis=1) * np.linalg.norm(reference, axis=1)
    cells = [
        name,
        *(f"{seconds:.2f}" for seconds in (engine["rounds"][0], median, engine["rounds"][-1])),
        f"{sum(engine['lengths']) / median:,.0f}",
        f"{len(engine['lengths']) / median:,.1f}",
        f"{engine['peak_gib']:.2f}",
        f"{((own * reference).sum(axis=1) / norms).min():.5f}",
    ]
    return f"| {' | '.join(cells)} |"


def conclusions(found: dict[str, dict]) -> Iterator[str]:
    seconds = {name: statistics.median(engine["rounds"]) for name, engine in found.items()}
    plain = seconds["sentence-transformers, float32"]
    default = plain / seconds["Lode, bfloat16"]
    same = seconds["sentence-transformers, bfloat16"] / seconds["Lode, bfloat16"]
    yield f"Per core, Lode as it runs by default here (bfloat16) is **{default:.2f} times** as fast"
    yield f"as sentence-transformers by default (float32), and **{same:.2f} times** as fast in the"
    yield f"same bfloat16; in float32 it is {plain / seconds['Lode, float32']:.2f} times as fast."


if __name__ == "__main__":
    if sys.argv[1:2] == ["engine"]:
        serve(Path(sys.argv[2]), *sys.argv[3:5])
    else:
        main()
