"""FlagEmbedding's arguments: the same candidates as its hn_mine, and its fine-tuning as a run."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import lode
from catalog.errors import CatalogError
from mining.encoder import Encoder, EncoderSettings
from mining.flagembedding import HnMineSettings, hn_mine
from recipes.flagembedding import read_finetune, read_hn_mine
from tests.model_folders import bert
from trainer.settings import load_settings

LEXICAL = EncoderSettings("lexical-64", threads=1)
CHARACTERS = [chr(code) for code in range(0x4E00, 0x4E00 + 60)]


def rows(count: int = 30) -> list[dict]:
    rng = np.random.default_rng(5)

    def text(length: int) -> str:
        return "".join(rng.choice(CHARACTERS, length))

    made = []
    for i in range(count):
        positive = text(20)
        own = {"id": i, "query": positive[3:9], "pos": [positive], "neg": [text(20), text(20)]}
        if i % 5 == 0:
            own["pos"].append(text(20))
        if i % 7 == 0:
            own["neg"].append(own["query"])  # the query's own text
        made.append(own)
    made.append({"query": made[0]["query"], "pos": [text(9)], "prompt": "…"})  # no neg, same query
    return made


def write(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def eligible(lines: list[dict], corpus: list[str], start: int, end: int) -> list[list[str]]:
    """Work out what may be drawn as hn_mine.py does, one query after the other."""
    encoder = Encoder.load(LEXICAL)
    vectors = encoder.encode(corpus, "passage")
    found = []
    for line in lines:
        scores = vectors @ encoder.encode([line["query"]], "query")[0]
        ranked = np.lexsort((np.arange(len(corpus)), -scores))[start:end]
        own = [corpus[p] for p in ranked]
        found.append([t for t in own if t not in line["pos"] and t != line["query"]])
    return found


def all_texts(lines: list[dict]) -> list[str]:
    return list(dict.fromkeys(t for line in lines for t in (*line["pos"], *line.get("neg", []))))


def test_every_row_gets_the_candidates_of_its_ranks(tmp_path: Path) -> None:
    lines = rows()
    given = write(tmp_path / "in.jsonl", lines)
    settings = HnMineSettings(given, tmp_path / "out.jsonl", None, (2, 12), 30)
    assert hn_mine(settings, LEXICAL) == len(lines)
    found = read(tmp_path / "out.jsonl")
    wanted = eligible(lines, all_texts(lines), 2, 12)
    for line, own, candidates in zip(lines, found, wanted, strict=True):
        # All that may be drawn, in the order of the ranks; then what fills the number up.
        assert own["neg"][: len(candidates)] == candidates
        assert len(own["neg"]) == len(set(own["neg"])) == 30
        assert not {*own["neg"]} & {own["query"], *own["pos"]}
        assert {k: v for k, v in own.items() if k != "neg"} == {
            k: v for k, v in line.items() if k != "neg"
        }
    assert not list(tmp_path.glob(".*"))


def test_a_draw_is_of_the_ranks_and_repeatable(tmp_path: Path) -> None:
    lines = rows()
    given = write(tmp_path / "in.jsonl", lines)

    def run(name: str, seed: int) -> list[list[str]]:
        settings = HnMineSettings(given, tmp_path / name, None, (2, 40), 5, seed)
        hn_mine(settings, LEXICAL)
        return [line["neg"] for line in read(tmp_path / name)]

    first, again, other = run("a", 0), run("b", 0), run("c", 1)
    assert first == again != other
    ranks = []
    for drawn, candidates in zip(first, eligible(lines, all_texts(lines), 2, 40), strict=True):
        assert len(drawn) == 5
        ranks += [candidates.index(text) for text in drawn]  # ValueError for any other
    assert max(ranks) > 30
    assert min(ranks) < 3


def test_a_pool_is_the_corpus(tmp_path: Path) -> None:
    lines = rows()
    pool = [{"text": line["pos"][0][::-1]} for line in lines] + [{"text": lines[3]["pos"][0]}]
    settings = HnMineSettings(
        write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl",
        write(tmp_path / "pool.jsonl", pool), (0, 200), 10,
    )  # fmt: skip
    hn_mine(settings, LEXICAL)
    texts = {line["text"] for line in pool}
    found = read(tmp_path / "out.jsonl")
    assert all({*line["neg"]} <= texts for line in found)
    assert lines[3]["pos"][0] not in found[3]["neg"]


def test_a_killed_run_reads_the_vectors_that_are_there(tmp_path: Path, monkeypatch) -> None:
    given = write(tmp_path / "in.jsonl", rows())
    settings = HnMineSettings(given, tmp_path / "out.jsonl", None, (2, 12), 5)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mining.flagembedding.search_blocks", stop)
        with pytest.raises(KeyboardInterrupt):
            hn_mine(settings, LEXICAL)
    assert not (tmp_path / "out.jsonl").exists()
    kept = list((tmp_path / ".out.jsonl.vectors").glob("*.npy"))
    assert len(kept) == 2
    encoder = Encoder.load(LEXICAL)
    monkeypatch.setattr(type(encoder), "encode", stop)
    hn_mine(settings, LEXICAL)
    assert (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"query": "q"}'], 'line 1: "pos" is a list of at least one text'),
        (['{"query": "q", "pos": ["p"]}', "{"], "line 2: "),
        (['{"query": "q", "pos": ["p"], "neg": "n"}'], 'line 1: "neg" is a list of texts'),
        (['{"pos": ["p"]}'], 'line 1: a row is an object with "query" and "pos"'),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(CatalogError, match=message):
        hn_mine(HnMineSettings(path, tmp_path / "out.jsonl"), LEXICAL)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_arguments_of_hn_mine_are_theirs() -> None:
    said: list[str] = []
    words = shlex.split(
        "--input_file a.jsonl --output_file b.jsonl --range_for_sampling 2-200 "
        "--negative_number 15 --use_gpu_for_searching --embedder_name_or_path lexical "
        "--query_instruction_for_retrieval 找： --embedder_query_max_length 64 --use_fp16 False "
        "--batch_size 3000"
    )
    mining, encoder = read_hn_mine(words, said.append)
    assert (mining.ranks, mining.negative_number) == ((2, 200), 15)
    assert (encoder.query_instruction, encoder.max_tokens) == ("找：", 512)
    assert said[0] == (
        "left out, Lode needs none of it: batch_size, use_fp16, use_gpu_for_searching"
    )
    assert "greater: 512" in said[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--input_fil a", "no argument 'input_fil'; did you mean 'input_file'"),
        ("--input_file a --output_file b", "--embedder_name_or_path is missing"),
        ("--input_file a --output_file b --embedder_name_or_path m --negative_number x", "invalid"),
        (
            "--input_file a --output_file b --embedder_name_or_path m --range_for_sampling 2:9",
            "write it as 2-200",
        ),
        (
            "--input_file a --output_file b --embedder_name_or_path m "
            "--query_instruction_for_retrieval i --query_instruction_format_for_retrieval {}{}!",
            "Lode puts an instruction before a text",
        ),
        ("--input_file a --output_file a --embedder_name_or_path m", "are the same"),
    ],
)
def test_an_argument_that_cannot_be_obeyed_is_refused(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_hn_mine(words.split(), print)


def test_fine_tuning_means_what_it_means_there() -> None:
    said: list[str] = []
    words = shlex.split(
        "--model_name_or_path m --train_data a.jsonl b.jsonl --output_dir runs/x "
        "--train_group_size 8 --query_max_len 512 --passage_max_len 512 --learning_rate 1e-5 "
        "--fp16 --num_train_epochs 2 --per_device_train_batch_size 4 --warmup_ratio 0.1 "
        "--negatives_cross_device --temperature 0.02 --sentence_pooling_method cls "
        "--query_instruction_for_retrieval 找： --query_instruction_format {}{} "
        "--knowledge_distillation False --overwrite_output_dir --save_steps 1000"
    )
    asked = read_finetune(words, said.append)
    settings = load_settings("m3e", asked.model, asked.changes)
    assert (asked.data, str(asked.out)) == (["a.jsonl", "b.jsonl"], "runs/x")
    assert settings.retrieval is not None
    assert (settings.retrieval.batch, settings.retrieval.temperature) == (4, 0.02)
    assert (settings.retrieval.columns, settings.retrieval.hard_negatives) == ("gathered", True)
    assert (settings.negatives.rule, settings.negatives.num_negatives) == ("static", 7)
    assert (settings.optimizer.lr, settings.optimizer.warmup, settings.epochs) == (1e-5, 0.1, 2)
    assert (settings.model.query_instruction, settings.model.pooling) == ("找：", "cls")
    assert (settings.checkpoint_every, settings.seed) == (1000, 42)
    assert settings.sts is None
    for word, message in (
        ("--knowledge_distillation True", "retrieval.distillation"),
        ("--gradient_accumulation_steps 4", "per_device_train_batch_size"),
        ("--lr_scheduler_type polynomial", "no lr_scheduler_type 'polynomial'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_finetune([*words, *word.split()], print)


@pytest.mark.slow
def test_their_script_moves_over(tmp_path: Path) -> None:
    """Mine, then fine-tune on what was mined, by their words alone."""
    folder = bert(tmp_path / "model")
    write(tmp_path / "in.jsonl", rows())
    mine = (
        f"flagembedding hn_mine --input_file {tmp_path}/in.jsonl --output_file {tmp_path}/hn.jsonl "
        f"--range_for_sampling 2-20 --negative_number 3 --embedder_name_or_path {folder} "
        "--pooling_method cls --embedder_query_max_length 32 --embedder_passage_max_length 32"
    )
    done = CliRunner().invoke(lode.app, mine.split())
    assert done.exit_code == 0, done.output
    assert "31 rows written" in done.output
    tune = (
        f"flagembedding finetune --model_name_or_path {folder} --train_data {tmp_path}/hn.jsonl "
        f"--output_dir {tmp_path}/run --train_group_size 4 --max_steps 3 "
        "--per_device_train_batch_size 4 --query_max_len 32 --passage_max_len 32 --logging_steps 1"
    )
    done = CliRunner().invoke(lode.app, tune.split())
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "checkpoint" / "modules.json").exists()
