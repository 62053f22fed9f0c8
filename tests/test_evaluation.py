"""mteb's numbers equal other computations of them, and nothing is downloaded."""

import json
import random
import socket
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from catalog.lake import Catalog
from catalog.schema import EVALUATIONS
from mining.encoder import Encoder, EncoderSettings
from mining.lexical import LexicalEncoder
from mining.retrieval_eval import encoder_searcher, evaluate, load_collection
from trainer.eval_paths import SetPaths
from trainer.eval_published import Fingerprint, find_published, fingerprint
from trainer.eval_records import commit_results, make_rows
from trainer.eval_sets import PairSet, read_collections, read_pair_sets
from trainer.evaluation import EvaluationSettings, evaluate_model, print_results

SHARED = Path(__file__).parents[2] / "shared" / "data" / "eval"
SETTINGS = EncoderSettings("lexical-64", threads=1)
CHARACTERS = [chr(code) for code in range(0x4E00, 0x4E00 + 400)]
# What mteb records of the two splits of C-MTEB's STSB.
STSB_VALIDATION = Fingerprint(1458, 1427, 1415, 1455, 2.00480109739369, 64295)
STSB_TEST = Fingerprint(1361, 1225, 1298, 1354, 2.3115356355620866, 51020)


class Noting(LexicalEncoder):
    """The lexical encoder; it notes the sides that it is asked for."""

    def __init__(self):
        super().__init__(SETTINGS)
        self.sides = []

    def encode(self, texts, side, progress=None):
        self.sides.append(side)
        return super().encode(texts, side, progress)


class Untrained(LexicalEncoder):
    """An encoder that gives every text the same vector."""

    def encode(self, texts, side, progress=None):
        return np.full((len(texts), self.width), self.width**-0.5, np.float32)


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Iterator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an evaluation asked for the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    (folder / "sts").mkdir()
    firsts, seconds, shares = sentence_pairs(120)
    write_pairs(folder / "sts" / "likeness.parquet", firsts, seconds, score=shares)
    labels = [int(share > 0.5) for share in shares]
    write_pairs(folder / "sts" / "paraphrase.parquet", firsts, seconds, label=labels)
    write_collection(folder / "retrieval" / "graded", 40)
    return folder


@pytest.fixture(scope="module")
def evaluated(sets: Path, tmp_path_factory: pytest.TempPathFactory):
    output = tmp_path_factory.mktemp("output")
    encoder = Noting()
    results = evaluate_model(encoder, SetPaths([sets / "sts"], [sets / "retrieval"]), output)
    return {result.set_name: result for result in results}, output, encoder


def sentence_pairs(count):
    """Make pairs of sentences that share from none to all of their characters."""
    rng = np.random.default_rng(0)
    firsts, seconds, shares = [], [], []
    for i in range(count):
        own = rng.choice(CHARACTERS, 24, replace=False)
        kept = round(24 * i / (count - 1))
        other = np.concatenate([own[:kept], rng.choice(CHARACTERS, 24 - kept)])
        firsts.append("".join(own))
        seconds.append("".join(rng.permutation(other)))
        shares.append(round(5 * kept / 24 + rng.normal(0, 0.5), 3))
    return firsts, seconds, [share / 5 for share in shares]


def write_pairs(file, firsts, seconds, **target):
    pq.write_table(pa.table({"sentence1": firsts, "sentence2": seconds, **target}), file)


def write_collection(folder, queries):
    """Make queries out of characters of their passages; one has no relevant passage."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    passages = ["".join(rng.choice(CHARACTERS, 30)) for _ in range(3 * queries)]
    texts = [
        passages[3 * i][:5]
        + "".join(rng.choice(list(passages[3 * i]), 3))
        + passages[3 * i + 1][:2]
        for i in range(queries)
    ]
    ids = [f"d{i}" for i in range(len(passages))]
    titles = ["标题" if i % 7 == 0 else "" for i in range(len(passages))]
    write(folder / "corpus.parquet", {"_id": ids, "title": titles, "text": passages})
    write(folder / "queries.parquet", {"_id": [f"q{i}" for i in range(queries)], "text": texts})
    judged = [(f"q{i}", f"d{3 * i + j}", 2 - j) for i in range(queries - 1) for j in range(3)]
    judged.append((f"q{queries - 1}", "d0", 0))
    columns = ("query-id", "corpus-id", "score")
    rows = zip(*judged, strict=True)
    write(folder / "qrels.parquet", dict(zip(columns, map(list, rows), strict=True)))


def write(file, columns):
    pq.write_table(pa.table(columns), file)


def cosines(file):
    pairs = read_pair_sets([file])[0]
    encoder = Encoder.load(SETTINGS)
    sides = [encoder.encode(texts, "passage") for texts in (pairs.firsts, pairs.seconds)]
    return (sides[0] * sides[1]).sum(axis=1), pairs.targets


def test_sts_is_the_spearman_correlation_of_cosines(sets, evaluated):
    result = evaluated[0]["likeness"]
    similarity, scores = cosines(sets / "sts" / "likeness.parquet")
    assert result.main_metric == "cosine_spearman"
    assert result.main_score == pytest.approx(spearmanr(similarity, scores)[0], abs=1e-6)
    assert 0.3 < result.main_score < 0.999  # a set that could tell models apart
    assert (result.kind, result.samples, result.split) == ("STS", 120, "test")


def test_pair_classification_ranks_pairs_by_cosine(sets, evaluated):
    result = evaluated[0]["paraphrase"]
    similarity, labels = cosines(sets / "sts" / "paraphrase.parquet")
    assert result.kind == "PairClassification"
    assert result.metrics["cosine_ap"] == pytest.approx(average_precision_score(labels, similarity))
    best = max(np.mean((similarity >= cut) == np.array(labels, bool)) for cut in similarity)
    assert result.metrics["cosine_accuracy"] == pytest.approx(best)
    assert result.main_score >= best  # the best of several distances, as C-MTEB has it


def test_retrieval_equals_lode_s_own_measures_over_lode_s_own_search(sets, evaluated):
    result = evaluated[0]["graded"]
    collection = load_collection(sets / "retrieval" / "graded")
    own = evaluate(collection, encoder_searcher(Encoder.load(SETTINGS)))
    names = {
        "ndcg_at_10": "ndcg@10",
        "recall_at_10": "recall@10",
        "recall_at_100": "recall@100",
        "mrr_at_10": "mrr@10",
    }
    # mteb rounds to five digits.
    for name, lodes in names.items():
        assert result.metrics[name] == pytest.approx(own[lodes], abs=1e-5), name
    assert 0.3 < result.main_score < 0.999
    assert result.main_metric == "ndcg_at_10"
    assert result.samples == 39  # the last query has nothing relevant


def test_only_queries_of_retrieval_are_encoded_as_queries(sets, evaluated):
    assert evaluated[2].sides == ["passage"] * 4 + ["passage", "query"]
    encoder = Noting()
    evaluate_model(
        encoder,
        SetPaths([sets / "sts" / "likeness.parquet"]),
        settings=EvaluationSettings(pair_side="query"),
    )
    assert encoder.sides == ["query"] * 2


def test_mteb_reads_back_the_files_that_were_written(evaluated):
    from mteb.results import TaskResult

    results, output, _ = evaluated
    folder = output / "results" / "lode__lexical-64" / "1"
    for name, result in results.items():
        stored = TaskResult.from_disk(folder / f"{name}.json")
        main = stored.scores["test"][0]["main_score"]
        assert main == pytest.approx(result.main_score, abs=1e-6)  # a file has six digits
        assert stored.task_name == name
    described = json.loads((folder / "model_meta.json").read_text())
    assert (described["name"], described["embed_dim"]) == ("lode/lexical-64", 64)


def test_a_result_is_a_table_for_people(evaluated, capsys):
    print_results(list(evaluated[0].values()))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["STS", "likeness", "mean"]
    assert f"{evaluated[0]['likeness'].main_score:.4f}" in lines[1]


def pairs_with(counts):
    """Make pairs of which mteb would record these counts."""
    rows = [*range(counts.different_pairs)]
    rows += [rows[-1]] * (counts.pairs - len(rows))
    firsts = [f"一{min(row, counts.firsts - 1)}" for row in rows]
    seconds = [f"二{max(row, counts.different_pairs - counts.seconds)}" for row in rows]
    firsts[0] += "长" * (counts.characters - len("".join(firsts + seconds)))
    total = round(counts.mean * counts.pairs)
    sums = [i * total // counts.pairs for i in range(counts.pairs + 1)]
    return firsts, seconds, [float(high - low) for low, high in pairwise(sums)]


def test_splits_of_a_published_task_are_one_result_file_under_its_name(tmp_path):
    for name, counts in (("one", STSB_VALIDATION), ("two", STSB_TEST)):
        firsts, seconds, scores = pairs_with(counts)
        write_pairs(tmp_path / f"{name}.parquet", firsts, seconds, score=scores)
    results = evaluate_model(SETTINGS, SetPaths([tmp_path]), tmp_path)
    named = [(result.set_name, result.task, result.split, result.samples) for result in results]
    assert named == [("one", "STSB", "validation", 1458), ("two", "STSB", "test", 1361)]
    stored = json.loads((tmp_path / "results/lode__lexical-64/1/STSB.json").read_text())
    assert set(stored["scores"]) == {"validation", "test"}
    assert stored["dataset_revision"] == "e036defee8f190911de6fc825a944b928c8cda53"
    assert {row["task"] for row in make_rows(results).to_pylist()} == {
        "STSB.validation",
        "STSB.test",
    }


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"characters": 64250}, True),  # spaces at the ends
        ({"characters": 64000}, False),
        ({"pairs": 1457}, False),
        ({"firsts": 1426}, False),
        ({"mean": 2.0055}, False),
    ],
)
def test_a_set_is_published_only_where_its_counts_are(change, same):
    pairs = PairSet("mine", "sts", *pairs_with(STSB_VALIDATION._replace(**change)), "")
    assert fingerprint(pairs).is_like(STSB_VALIDATION) == same


def test_random_numbers_go_on_as_if_nothing_was_evaluated(sets):
    def draw():
        return random.random(), np.random.random(), float(torch.rand(1))  # noqa: NPY002

    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    evaluate_model(SETTINGS, SetPaths([sets / "sts" / "likeness.parquet"]))
    assert draw() == expected


def test_results_come_into_the_catalog_once(catalog: Catalog, evaluated):
    results = list(evaluated[0].values())
    rows = make_rows(results, "a")
    assert rows.schema == EVALUATIONS
    main = [(row["task"], row["metric"]) for row in rows.to_pylist() if row["is_main"]]
    assert sorted(main) == [
        ("graded", "ndcg_at_10"),
        ("likeness", "cosine_spearman"),
        ("paraphrase", "max_accuracy"),
    ]
    assert commit_results(catalog, results, "a") == rows.num_rows
    assert commit_results(catalog, results, "a") == 0
    assert commit_results(catalog, results) == rows.num_rows  # a model that no run made
    with catalog.reader() as connection:
        sql = "select value from evaluations where run = 'a' and is_main and task = 'likeness'"
        assert connection.execute(sql).fetchall() == [(evaluated[0]["likeness"].main_score,)]


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_model_without_any_difference_is_refused(sets):
    with pytest.raises(ValueError, match=r"likeness: cosine_spearman.* every pair the same"):
        evaluate_model(Untrained(SETTINGS), SetPaths([sets / "sts" / "likeness.parquet"]))


def test_without_mteb_the_extra_is_named_but_damaged_sets_come_first(sets, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ValueError, match=r"pip install 'lode-engine\[eval\]'"):
        evaluate_model(SETTINGS, SetPaths([sets / "sts"]))
    with pytest.raises(ValueError, match="holds no evaluation set"):
        evaluate_model(SETTINGS, SetPaths([tmp_path]))
    with pytest.raises(ValueError, match="no evaluation set was given"):
        evaluate_model(SETTINGS, SetPaths())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sentence1": ["一"], "text": ["二"]}, r"no column sentence2, score or label.*it has sen"),
        ({"sentence1": ["一"], "sentence2": ["二"]}, "no column score or label"),
        ({"sentence1": ["一", None], "sentence2": ["二"] * 2, "score": [0, 1]}, "empty in 1 row"),
        ({"sentence1": ["一"], "sentence2": ["二"], "score": ["x"]}, "score is of type string"),
        ({"sentence1": ["一"] * 2, "sentence2": ["二"] * 2, "label": [0, 3]}, "label holds 3"),
        ({"sentence1": ["一"] * 2, "sentence2": ["二"] * 2, "score": [1, 1]}, "1 different val"),
    ],
)
def test_damaged_pairs_are_refused_with_file_and_column(columns, message, tmp_path):
    write(tmp_path / "bad.parquet", columns)
    with pytest.raises(ValueError, match=f"bad.parquet.*{message}"):
        read_pair_sets([tmp_path])


def test_files_that_are_no_sets_are_refused(tmp_path, sets):
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"text\.parquet cannot be read as Parquet"):
        read_pair_sets([tmp_path])
    with pytest.raises(ValueError, match="missing does not exist"):
        read_collections([tmp_path / "missing"])
    with pytest.raises(ValueError, match="two evaluation sets are called 'likeness'"):
        read_pair_sets([sets / "sts", sets / "sts" / "likeness.parquet"])


def test_a_damaged_collection_is_refused_with_file_and_column(tmp_path):
    write_collection(tmp_path / "mine", 3)
    write(tmp_path / "mine" / "corpus.parquet", {"id": ["d0"], "text": ["一"]})
    with pytest.raises(ValueError, match=r"corpus\.parquet has no column _id; it has id, text"):
        read_collections([tmp_path])
    write(tmp_path / "mine" / "corpus.parquet", {"_id": ["d0", "d0"], "text": ["一", "二"]})
    with pytest.raises(ValueError, match="2 passages, but 1 different values of _id"):
        read_collections([tmp_path])
    write(tmp_path / "mine" / "corpus.parquet", {"_id": ["d0"], "text": ["一"]})
    qrels = {"query-id": ["q0"], "corpus-id": ["d0"], "score": [0]}
    write(tmp_path / "mine" / "qrels.parquet", qrels)
    with pytest.raises(ValueError, match="judge no passage relevant"):
        read_collections([tmp_path / "mine"])


def test_the_digest_of_a_set_changes_with_every_row(tmp_path):
    write_pairs(tmp_path / "a.parquet", ["一", "二"], ["三", "四"], score=[0.0, 1.0])
    write_pairs(tmp_path / "b.parquet", ["一", "二"], ["三", "四"], score=[0.0, 0.9])
    write_pairs(tmp_path / "c.parquet", ["一", "二三"], ["三", "四"], score=[0.0, 1.0])
    assert len({one.revision for one in read_pair_sets([tmp_path])}) == 3


@pytest.mark.data
@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not there")
def test_the_sets_of_c_mteb_are_recognized():
    found = find_published(read_pair_sets([SHARED / "sts"]))
    named = {name: (split.task.metadata.name, split.split) for name, split in found.items()}
    assert named == {
        "AFQMC.dev": ("AFQMC", "validation"),
        "BQ.test": ("BQ", "test"),
        "LCQMC.test": ("LCQMC", "test"),
        "PAWSX_zh.test": ("PAWSX", "test"),
        "QBQTC.test_public": ("QBQTC", "test"),
        "STSB_zh.dev": ("STSB", "validation"),
        "STSB_zh.test": ("STSB", "test"),
    }
