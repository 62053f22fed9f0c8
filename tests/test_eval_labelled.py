"""Classification and clustering of labelled texts, and benchmarks that name sets."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from catalog.contamination import SetContamination
from mining.encoder import EncoderSettings
from trainer.eval_labelled import read_labelled
from trainer.eval_paths import SetPaths, read_benchmark, shipped_benchmarks
from trainer.eval_records import TRAINED_ON, make_rows
from trainer.evaluation import evaluate_model, print_results

pytestmark = pytest.mark.slow

SHARED = Path(__file__).parents[2] / "shared" / "data"
SETTINGS = EncoderSettings("lexical-64", threads=1)
# Each class has characters of its own, and some that all have.
CLASSES = {"天气": 0x4E00, "体育": 0x5000, "法律": 0x5200}


def labelled(rows: int, shuffle: bool = False) -> dict[str, list[str]]:
    rng = np.random.default_rng(3)
    labels = [list(CLASSES)[i % len(CLASSES)] for i in range(rows)]
    texts = ["".join(map(chr, rng.integers(CLASSES[own], CLASSES[own] + 60, 20))) for own in labels]
    if shuffle:
        labels = list(rng.permutation(labels))
    return {"text": texts, "label": labels}


def write(path: Path, columns: dict[str, list[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def named(results: list) -> dict:
    return {result.set_name: result for result in results}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    folder = tmp_path_factory.mktemp("labels")
    topics = write(folder / "topics.parquet", labelled(300))
    noise = write(folder / "noise.parquet", labelled(300, shuffle=True))
    sets = SetPaths(classification=[topics, noise], clustering=[topics, noise])
    return named(evaluate_model(SETTINGS, sets, folder / "out"))


def test_classes_that_differ_are_found_and_noise_is_not(results: dict) -> None:
    topics, noise = results["topics"], results["noise"]
    assert (topics.kind, topics.main_metric, topics.task) == (
        "Classification", "accuracy", "topics",
    )  # fmt: skip
    assert topics.main_score > 0.9
    assert 0.15 < noise.main_score < 0.5  # a third by chance
    assert topics.samples < 100


def test_clusters_that_differ_are_found_and_noise_is_not(results: dict) -> None:
    topics, noise = results["topics.clustering"], results["noise.clustering"]
    assert (topics.kind, topics.main_metric) == ("Clustering", "v_measure")
    assert topics.main_score > 0.8
    assert noise.main_score < 0.2


def test_rows_without_a_split_are_drawn_by_their_text(tmp_path: Path) -> None:
    columns = labelled(300)
    one = read_labelled([write(tmp_path / "a.parquet", columns)])[0]
    turned = {name: values[::-1] for name, values in columns.items()}
    other = read_labelled([write(tmp_path / "b.parquet", turned)])[0]
    assert 40 <= len(one.texts) <= 80
    assert sorted(one.texts) == sorted(other.texts)
    assert not set(one.texts) & set(one.train_texts)
    assert len(one.texts) + len(one.train_texts) == 300
    # A class has the same number on both sides.
    by_text = dict(zip(columns["text"], columns["label"], strict=True))
    numbers = {
        (by_text[text], number)
        for texts, labels in ((one.texts, one.labels), (one.train_texts, one.train_labels))
        for text, number in zip(texts, labels, strict=True)
    }
    assert len(numbers) == len(CLASSES)


def test_a_file_of_several_sets_is_read_as_such(tmp_path: Path) -> None:
    columns = labelled(12)
    columns["dataset"] = ["one", "two"] * 6
    columns["split"] = ["train_few"] * 6 + ["test_public"] * 6
    sets = read_labelled([write(tmp_path / "few.parquet", columns)])
    assert [one.name for one in sets] == ["few.one", "few.two"]
    assert sets[0].texts == columns["text"][6::2]
    assert sets[1].train_texts == columns["text"][1:6:2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "no column text or sentences or sentence; it has label; a labelled set"),
        ({"label": ["一"] * 4}, "has 1 different labels in 2 tested rows; at least 2"),
        ({"label": ["一", "二", "一", "三"]}, "no row to train the label '三' on"),
        ({"split": ["train"] * 4}, "column split holds train; expected are train and test"),
        ({"label": ["一", None, "一", "二"]}, "label is empty in 1 rows"),
    ],
)
def test_a_bad_set_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    columns = {
        "text": ["甲", "乙", "丙", "丁"], "label": ["一", "二", "一", "二"],
        "split": ["train", "train", "test", "test"],
    } | change  # fmt: skip
    if columns["text"] is None:
        columns = {"label": columns["label"]}
    with pytest.raises(ValueError, match=message):
        read_labelled([write(tmp_path / "bad.parquet", columns)])


def test_a_result_shows_what_was_trained_on(results: dict, capsys) -> None:
    held = [SetContamination("topics", 7, 1234, 5)]
    print_results(list(results.values()), held)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("texts trained on")
    assert any(line.startswith("topics ") and line.endswith(" 1,234") for line in lines)
    # The clusters are those of the same file.
    assert any(line.startswith("topics.clustering ") and line.endswith(" 1,234") for line in lines)
    assert any(line.startswith("noise ") and line.endswith("not compared") for line in lines)
    kept = make_rows(list(results.values()), "a", held).to_pylist()
    own = {row["task"]: row["value"] for row in kept if row["metric"] == TRAINED_ON}
    assert own == {"topics": 1234, "topics.clustering": 1234}


def test_a_benchmark_names_sets_below_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "data" / "topics.parquet", labelled(30))
    file = tmp_path / "own.toml"
    file.write_text('[benchmark]\nclassification = ["topics.parquet"]\n')
    found = read_benchmark(str(file), tmp_path / "data")
    assert found.all == [tmp_path / "data" / "topics.parquet"]
    with pytest.raises(ValueError, match=r"1 of 1 sets of .*own.toml are not below .*--data"):
        read_benchmark(str(file), tmp_path)
    file.write_text('[benchmark]\nclasification = ["topics.parquet"]\nsts = ["x"]\n')
    with pytest.raises(ValueError, match=r"clasification = .* allowed are name, title, and lists"):
        read_benchmark(str(file), tmp_path)
    file.write_text("[benchmark]\n")
    with pytest.raises(ValueError, match="names no set"):
        read_benchmark(str(file), tmp_path)
    with pytest.raises(ValueError, match=r"no benchmark 'cmteb'; give cmteb-local, or a TOML file"):
        read_benchmark("cmteb", tmp_path)
    assert shipped_benchmarks() == ["cmteb-local"]


def test_the_command_evaluates_a_benchmark(tmp_path: Path) -> None:
    from lode import app

    write(tmp_path / "topics.parquet", labelled(60))
    file = tmp_path / "own.toml"
    file.write_text('[benchmark]\nclassification = ["topics.parquet"]\n')
    words = ["evaluate", "lexical-64", "--benchmark", str(file), "--data", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "topics" in done.output
    assert "accuracy" in done.output


@pytest.mark.data
@pytest.mark.skipif(not SHARED.exists(), reason=f"the shared evaluation sets are not in {SHARED}")
def test_all_sets_of_the_shipped_benchmark_can_be_read() -> None:
    from trainer.eval_files import read_sets

    sets = read_sets(read_benchmark("cmteb-local", SHARED))
    assert len(sets.pairs) == 7
    assert len(sets.collections) == 4
    assert [one.name for one in sets.classified] == [
        *(f"topic_fewclue.{name}" for name in ("csldcp", "eprstmt", "iflytek", "tnews")),
        "toxicity_cold",
    ]
    assert len(sets.clustered) == 4
