import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from curation.classifier_training import MODEL_FILE, Lesson, divide, evaluate, train
from curation.classifiers import find_classifier, load_classifier, shipped_classifiers
from curation.classifiers.fasttext_engine import FastTextClassifier, FastTextLibrary, load_fasttext
from curation.classifiers.fasttext_training import (
    FastTextSettings,
    run_fasttext,
    training_lines,
)
from curation.classifiers.figures import auc, figures, learn_keywords, majority
from curation.classifiers.labelled import Columns, Labelled, Split, hold_out, read_labelled
from curation.classifiers.places import SHIPPED, file_digest
from curation.classifiers.transformer_engine import TransformerClassifier, length_batches
from curation.signals import SignalSettings, compute, registered, versions
from curation.texts import from_strings, normalize
from tests import model_folders

KIND = [
    "谢谢你的帮助",
    "今天天气很好",
    "这本书写得好",
    "我们去公园吧",
    "祝你生日快乐",
    "早上好老师",
]
RUDE = [
    "你这个大傻瓜",
    "滚开大傻瓜们",
    "真是傻瓜一群",
    "大傻瓜别说话",
    "笨蛋加大傻瓜",
    "笨蛋快滚开吧",
]
SMALL = FastTextSettings(width=4, buckets=2_000, epochs=40, learning_rate=0.5)


def write_table(path: Path, copies: int = 8) -> Path:
    rows = [
        {"text": f"{text}第{copy}次", "label": label, "split": "test" if copy < 2 else "train"}
        for label, texts in (("ok", KIND), ("rude", RUDE))
        for text in texts
        for copy in range(copies)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    table = write_table(tmp_path_factory.mktemp("table") / "rude.parquet")
    return Lesson(table, "rude", Columns(split="split"), Split(value="test"), SMALL)


@pytest.fixture(scope="module")
def trained(lesson: Lesson, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "rude"
    train(lesson, folder)
    return folder


def test_a_trained_classifier_tells_held_out_texts_apart(trained: Path) -> None:
    card = find_classifier(trained).card
    ours, most, keywords = card.evaluation["rows"]
    assert (ours["rows"], ours["positives"]) == (24, 12)
    assert ours["auc"] == 1
    assert most["auc"] == 0.5
    assert "learned keywords" in keywords["name"]
    text = (trained / "card.md").read_text("utf-8")
    assert "lode classifier train rude.parquet rude --positive rude --split split=test" in text
    assert str(trained.parent) not in text  # where it was trained is nobody's business


def test_training_again_gives_the_same_bytes_in_whatever_order_the_rows_stand(
    lesson: Lesson, trained: Path, tmp_path: Path
) -> None:
    rows = pq.read_table(lesson.table)
    shuffled = tmp_path / "rude.parquet"
    pq.write_table(rows.take(np.random.default_rng(1).permutation(rows.num_rows)), shuffled)
    again = train(Lesson(shuffled, "rude", lesson.columns, lesson.split, SMALL), tmp_path / "again")
    assert again.sha256 == file_digest(trained / MODEL_FILE)


def test_no_equal_texts_stand_on_both_sides(tmp_path: Path) -> None:
    rows = [
        {"text": text, "label": str(i % 2), "split": ("train", "test")[i]}
        for i in (0, 1)
        for text in ("你好，世界", "你好 世界！", "全然不同")
    ]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    learned, held = hold_out(read_labelled(path, Columns(split="split")), Split(value="test"))
    assert (len(learned), len(held)) == (0, 3)
    learned, held = hold_out(read_labelled(path), Split(share=0.5, seed=3))
    assert not set(learned.keys().tolist()) & set(held.keys().tolist())
    assert len(learned) + len(held) == 6


def test_a_rows_side_does_not_depend_on_the_other_rows(lesson: Lesson) -> None:
    rows = read_labelled(lesson.table)
    _, held = hold_out(rows, Split(share=0.3))
    some = rows.take(np.arange(len(rows)) % 3 == 0)
    _, held_of_some = hold_out(some, Split(share=0.3))
    assert set(held_of_some.keys().tolist()) == (
        set(held.keys().tolist()) & set(some.keys().tolist())
    )
    assert 0.15 < len(held) / len(rows) < 0.45


def test_fasttexts_own_marks_in_a_text_are_no_labels() -> None:
    rows = Labelled(from_strings(["好 __label__ok 坏</s>\n尾"]), np.array(["ok"]), None, left_out=0)
    lines = training_lines(rows, FastTextSettings(reads="as written"))
    assert lines == ["__label__ok 好 _ _label__ok 坏< /s> 尾\n"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "bad"}, "0 have the label 'bad'.*labels there: ok, rude"),
        ({"columns": Columns(text="body")}, "no column 'body': it has text, label, split"),
        ({"table": Path("/nowhere.parquet")}, "there is no file /nowhere.parquet"),
        (
            {"columns": Columns(split="split"), "split": Split(value="dev")},
            "no row is of the split 'dev': there are test, train",
        ),
    ],
)
def test_a_lesson_that_cannot_be_learned_is_refused_and_nothing_is_written(
    lesson: Lesson, change: dict, message: str, tmp_path: Path
) -> None:
    settings = {"table": lesson.table, "label": "rude"} | change
    with pytest.raises(ValueError, match=message):
        train(Lesson(**settings), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_overwritten(lesson: Lesson, trained: Path) -> None:
    before = file_digest(trained / MODEL_FILE)
    with pytest.raises(ValueError, match="there is already"):
        train(lesson, trained)
    assert file_digest(trained / MODEL_FILE) == before


def test_json_lines_and_csv_hold_the_same_rows(lesson: Lesson, tmp_path: Path) -> None:
    rows = pq.read_table(lesson.table).to_pylist()
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    csv = tmp_path / "rows.csv"
    csv.write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows), "utf-8")
    keys = read_labelled(lesson.table).keys()
    for path in (lines, csv):
        assert (read_labelled(path).keys() == keys).all()
    (tmp_path / "rows.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"a labelled table ends in \.parquet"):
        read_labelled(tmp_path / "rows.xlsx")


def test_rows_without_text_or_label_are_counted_and_labels_may_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a", None, "b", "c"], "label": [0, 1, None, 1]}), path)
    rows = read_labelled(path)
    assert rows.labels.tolist() == ["0", "1"]
    assert rows.left_out == 2


# Figures ----------------------------------------------------------------------------------------


def test_figures_are_those_of_the_written_out_case() -> None:
    scores = np.array([0.9, 0.8, 0.4, 0.6, 0.1], np.float32)
    positive = np.array([True, True, True, False, False])
    found = figures("a", scores, positive)
    assert (found.precision, found.recall, found.accuracy) == (2 / 3, 2 / 3, 3 / 5)
    assert found.f1 == pytest.approx(2 / 3)
    assert found.auc == pytest.approx(5 / 6)
    assert majority(np.array([False, False, True]), positive).f1 == 0
    assert majority(np.array([True]), positive).recall == 1


def test_auc_is_the_share_of_pairs_in_order_and_half_of_ties() -> None:
    rng = np.random.default_rng(5)
    scores, positive = rng.integers(0, 6, 60) / 6, rng.random(60) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(scores, np.ones(60, np.bool_)))


def test_keywords_mark_the_positive_texts(lesson: Lesson) -> None:
    rows = read_labelled(lesson.table)
    words = learn_keywords(normalize(rows.texts), rows.labels == "rude", size=3)
    assert words[0] == "傻瓜"


def test_the_rows_that_were_learned_are_not_evaluated(lesson: Lesson, trained: Path) -> None:
    classifier = load_classifier(trained)
    assert [f.rows for f in evaluate(classifier, lesson.table, Columns())] == [24, 24, 24]
    words = lesson.table.with_name("words.txt")
    words.write_text("# rude\n大 傻 瓜\trude\n", "utf-8")
    other = write_table(lesson.table.with_name("other.parquet"), copies=3)
    found = evaluate(classifier, other, Columns(), lexicon=words)
    assert [f.rows for f in found] == [36, 36]  # nothing was learned from this table
    assert found[1].precision == 1
    assert found[1].recall == pytest.approx(4 / 6)
    assert len(divide(lesson)[0]) == 72


# fastText ---------------------------------------------------------------------------------------


ODD = [
    "",
    " ",
    "a",
    "今天 天气\n很好 大傻瓜",
    "é😀 x",
    "__label__ok 好",
    "大傻瓜" * 900,
    None,
    "\0 \t 滚",
]


def library_scores(path: Path, texts: list[str | None]) -> np.ndarray:
    return FastTextLibrary(path, "as written", 500).scores(from_strings(texts))


def run(lines: Path, path: Path, **options: object) -> fasttext.FastText._FastText:
    """Train with other options than ours, in a process where fastText finds its memory zero."""
    common = {"dim": 4, "minn": 1, "bucket": 9_000, "minCount": 1, "thread": 1, "verbose": 0}
    run_fasttext({"input": str(lines), **common, **options}, path)
    return fasttext.load_model(str(path))


@pytest.mark.parametrize("loss", ["softmax", "ova"])
def test_scores_are_those_of_fasttext(loss: str, lesson: Lesson, tmp_path: Path) -> None:
    lines = tmp_path / "rows.txt"
    lines.write_text("".join(training_lines(divide(lesson)[0], SMALL)), "utf-8")
    model = run(lines, tmp_path / "model.bin", maxn=3, loss=loss)
    texts = [text for text in ODD if text is None or "__label__" not in text] + KIND + RUDE
    ours = load_fasttext(tmp_path / "model.bin", "as written", 500)
    assert isinstance(ours, FastTextClassifier)
    wide = {"softmax": 2e-5, "ova": 0.01}[loss]  # fastText reads sigmoids from a table of 512 steps
    expected = library_scores(tmp_path / "model.bin", texts)
    np.testing.assert_allclose(ours.scores(from_strings(texts)), expected, atol=wide)
    # Quantized and pruned, the same file format holds it otherwise.
    model.quantize(input=str(lines), qnorm=True, cutoff=300)
    model.save_model(str(tmp_path / "model.ftz"))
    small = load_fasttext(tmp_path / "model.ftz", "as written", 500)
    assert isinstance(small, FastTextClassifier)
    expected = library_scores(tmp_path / "model.ftz", texts)
    np.testing.assert_allclose(small.scores(from_strings(texts)), expected, atol=wide)


def test_what_the_kernels_do_not_read_is_scored_by_fasttext(lesson: Lesson, tmp_path: Path) -> None:
    lines = tmp_path / "rows.txt"
    lines.write_text("".join(training_lines(divide(lesson)[0], SMALL)), "utf-8")
    run(lines, tmp_path / "model.bin", maxn=2, wordNgrams=2)
    found = load_fasttext(tmp_path / "model.bin", "as written", 500)
    assert isinstance(found, FastTextLibrary)
    np.testing.assert_allclose(found.scores(from_strings(RUDE)).sum(axis=1), 1, atol=1e-4)


def test_no_score_depends_on_the_other_texts_of_the_batch(trained: Path) -> None:
    classifier = load_classifier(trained)
    whole = classifier.scores(from_strings(KIND + RUDE))
    alone = [classifier.scores(from_strings([text]))[0] for text in KIND + RUDE]
    assert whole.tolist() == [float(score) for score in alone]
    assert classifier.scores(from_strings([])).shape == (0,)


def test_width_script_and_blanks_do_not_hide_a_word_and_only_the_first_characters_count(
    trained: Path,
) -> None:
    classifier = load_classifier(trained)
    a, b = classifier.scores(from_strings(["你這個　大-傻-瓜", "你这个大傻瓜"]))
    assert a == b
    ends = [f"{'今' * 1_000}{end}" for end in ("", "大傻瓜大傻瓜")]
    a, b = classifier.scores(from_strings(ends))
    assert a == b


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-40], "is cut short"),
        (lambda data: data[:90], "is cut short"),
        (lambda data: b"\0" * 100, "is no fastText model of version 12"),
    ],
)
def test_a_damaged_model_is_refused(
    damage: Callable[[bytes], bytes], message: str, trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(damage((trained / MODEL_FILE).read_bytes()))
    with pytest.raises(ValueError, match=message):
        load_classifier(f"{path}#rude")


# Places and cards -------------------------------------------------------------------------------


def copy_model(trained: Path, folder: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / MODEL_FILE).write_bytes((trained / MODEL_FILE).read_bytes())
    card = json.loads((trained / "card.json").read_text("utf-8")) | changes
    (folder / "card.json").write_text(json.dumps(card), "utf-8")
    return folder


def test_a_file_without_a_card_needs_a_label(trained: Path) -> None:
    path = trained / MODEL_FILE
    with pytest.raises(ValueError, match=r"write .*#LABEL \(its labels: "):
        find_classifier(path)
    with pytest.raises(ValueError, match="no label 'nice': its labels are"):
        load_classifier(f"{path}#nice")
    rude = load_classifier(f"{path}#rude").scores(from_strings(RUDE))
    ok = load_classifier(f"{path}#ok").scores(from_strings(RUDE))
    np.testing.assert_allclose(rude + ok, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "is not the file that its card describes"),
        ({"file": "gone.bin"}, "has no file gone.bin, which its card names"),
        ({"engine": "svm"}, "engine is 'svm': it is one of fasttext, transformers"),
        ({"reads": "aloud"}, "reads is 'aloud': it is one of"),
        ({"max_chars": 0}, "max_chars is 0"),
        ({"colour": "red"}, "unknown keys colour"),
    ],
)
def test_a_card_that_is_wrong_is_refused(
    changes: dict, message: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        find_classifier(copy_model(trained, tmp_path / "model", **changes))


def test_what_is_no_classifier_is_named_with_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no classifier 'nowhere'.*toxicity-cold"):
        find_classifier("nowhere")
    with pytest.raises(ValueError, match=r"is no classifier: it is neither a folder with"):
        find_classifier(tmp_path)


def test_shipped_classifiers_are_small_and_say_what_they_were_measured_to_do() -> None:
    assert shipped_classifiers() == ["toxicity-cold"]
    for name in shipped_classifiers():
        place = find_classifier(name)
        assert place.model.stat().st_size <= 3_000_000
        ours, most, keywords = place.card.evaluation["rows"][:3]
        assert ours["auc"] > keywords["auc"] + 0.1 > most["auc"] + 0.1
        assert ours["f1"] > max(most["f1"], keywords["f1"]) + 0.05
        for field in ("about", "data", "license", "limits", "command"):
            assert getattr(place.card, field)
        assert (SHIPPED / name / "card.md").is_file()
    scores = load_classifier("toxicity-cold").scores(
        from_strings(["这些黑鬼都是垃圾，滚出去", "今天我们去公园看花，天气很好"])
    )
    assert scores[0] > 0.9
    assert scores[1] < 0.2


# Hugging Face -----------------------------------------------------------------------------------


def sequence_classifier(folder: Path, **config: object) -> Path:
    """Write a tiny random BERT with a classification head."""
    model_folders.bert(folder)
    found = transformers.BertConfig.from_pretrained(folder, **config)
    return model_folders.save_model(transformers.BertForSequenceClassification, found, folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "bert"
    return sequence_classifier(folder, id2label={0: "clean", 1: "advert", 2: "spam"})


MIXED = ["怎么学钢琴", "a", "为这个句子生成表示" * 30, "", *KIND]


def test_a_hugging_face_model_scores_as_transformers_does(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation.classifiers.transformer_engine.native_dtype", lambda _: "float32")
    monkeypatch.setitem(
        TransformerClassifier.scores.__globals__["BATCH_TOKENS"], "cpu", 100
    )  # several batches
    found = TransformerClassifier(bert, "as written", 8_192, device="cpu")
    assert found.labels == ("clean", "advert", "spam")
    scores = found.scores(from_strings([*MIXED, None]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(bert).eval()
    for row, text in enumerate(MIXED):
        with torch.inference_mode():
            inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            expected = model(**inputs).logits.softmax(-1)[0].numpy()
        np.testing.assert_allclose(scores[row], expected, atol=1e-5)
    assert len({tuple(row) for row in scores[: len(MIXED)].round(4).tolist()}) > 5


def test_a_hugging_face_folder_is_loaded_by_path_and_label(bert: Path) -> None:
    with pytest.raises(ValueError, match=r"#LABEL \(its labels: clean, advert, spam\)"):
        find_classifier(bert)
    total = sum(
        load_classifier(f"{bert}#{label}").scores(from_strings(MIXED))
        for label in ("clean", "advert", "spam")
    )
    np.testing.assert_allclose(total, 1, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "low", "high"),
    [
        ({"num_labels": 1}, 0, 1),
        ({"num_labels": 1, "problem_type": "regression"}, -99, 99),
        ({"num_labels": 2, "problem_type": "multi_label_classification"}, 0, 1),
    ],
)
def test_logits_become_scores_as_the_problem_type_says(
    config: dict, low: float, high: float, tmp_path: Path
) -> None:
    folder = sequence_classifier(tmp_path / "bert", **config)
    found = TransformerClassifier(folder, "as written", 100, device="cpu")
    scores = found.scores(from_strings(KIND))
    assert scores.shape == (len(KIND), config["num_labels"])
    assert ((scores > low) & (scores < high)).all()
    assert found.activation == ("none" if config.get("problem_type") == "regression" else "sigmoid")


def test_a_model_without_a_head_would_answer_at_random_and_is_refused(tmp_path: Path) -> None:
    folder = model_folders.bert(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"lacks 2 weights of a classifier \(first: classifier"):
        TransformerClassifier(folder, "as written", 100, device="cpu")


def test_batches_keep_to_their_budget_with_padding() -> None:
    lengths = np.array([3, 9, 1, 9, 4, 50])
    batches = length_batches(lengths, 18)
    assert sorted(np.concatenate(batches).tolist()) == list(range(6))
    assert [batch.tolist() for batch in batches] == [[5], [1, 3], [4, 0, 2]]


# Signals ----------------------------------------------------------------------------------------


ROWS = pa.table(
    {
        "pair_id": pa.array([1, 2], pa.int64()),
        "query": ["笨蛋快滚", None],
        "positive": ["今天天气很好", "你这个大傻瓜"],
    }
)


def test_a_classifier_of_a_recipe_is_a_signal_on_both_sides(trained: Path) -> None:
    settings = SignalSettings(classifiers={"rudeness": str(trained)})
    found = compute(ROWS, ["query_rudeness", "passage_rudeness"], settings)
    assert found["query_rudeness"].type == pa.float32()
    assert found["query_rudeness"][1].as_py() is None
    assert found["query_rudeness"][0].as_py() > 0.5
    assert [score.as_py() > 0.5 for score in found["passage_rudeness"]] == [False, True]


def test_a_changed_model_or_label_is_a_new_version_and_changes_no_other(
    trained: Path, tmp_path: Path
) -> None:
    copy = copy_model(trained, tmp_path / "copy", about="the same model, described better")
    names = {"a": str(trained), "b": str(copy)}
    before = versions(SignalSettings(classifiers=names))
    assert before["passage_a"] == before["passage_b"]  # a description decides no score
    copy_model(trained, tmp_path / "other", max_chars=5)
    after = versions(SignalSettings(classifiers=names | {"b": str(tmp_path / "other")}))
    assert {name for name in before if before[name] != after[name]} == {"query_b", "passage_b"}
    labelled = versions(SignalSettings(classifiers=names | {"b": f"{copy}#ok"}))
    assert {name for name in before if before[name] != labelled[name]} == {"query_b", "passage_b"}


@pytest.mark.parametrize(
    ("classifiers", "message"),
    [
        ({"Rude": "toxicity-cold"}, "'Rude' cannot be part of a column's name"),
        ({"rude": 3}, "rude is 3: a path, or one that is shipped"),
        (["toxicity-cold"], "classifiers is .*: write { toxicity"),
    ],
)
def test_classifiers_are_checked_where_they_are_set(classifiers: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SignalSettings(classifiers=classifiers)  # type: ignore[arg-type]


def test_a_classifier_that_is_missing_or_takes_a_signals_name_is_refused(trained: Path) -> None:
    with pytest.raises(ValueError, match="there is no classifier 'nowhere'"):
        registered(SignalSettings(classifiers={"rude": "nowhere"}))
    with pytest.raises(ValueError, match="two signals are called query_chars"):
        registered(SignalSettings(classifiers={"chars": str(trained)}))


def test_shipped_bytes_are_those_that_the_card_names() -> None:
    for name in shipped_classifiers():
        place = find_classifier(name)
        assert hashlib.sha256(place.model.read_bytes()).hexdigest() == place.card.sha256
