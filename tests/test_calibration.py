import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from catalog.lake import Catalog
from catalog.policies import Policy
from curation.calibrate import Calibration, calibrate
from curation.calibration import (
    Curve,
    Distribution,
    choose_by_kept_share,
    choose_by_precision,
    condition_toml,
    describe,
    make_condition,
    make_curve,
    short_between,
    wilson,
)
from curation.calibration_picture import write_picture
from curation.classifier_commands import register
from curation.classifier_training import Lesson, train
from curation.classifiers.labelled import Columns, Split
from curation.curate import curate
from curation.ingest import find_sources, ingest_files
from curation.recipes import load_recipe
from tests.test_classifiers import KIND, RUDE, SMALL, copy_model, write_table

SCORES = np.array([0.1, 0.2, 0.2, 0.6, 0.7, 0.9], np.float32)
POSITIVE = np.array([False, False, True, True, False, True])
CORPUS = Distribution.of(
    np.array([0.05, 0.1, 0.15, 0.2, 0.3, 0.6, 0.65, 0.7, 0.9, 0.95], np.float32)
)


def curve(keep: str = "below") -> Curve:
    return make_curve(SCORES, POSITIVE, CORPUS, keep)  # type: ignore[arg-type]


def test_a_curve_is_that_of_the_written_out_case() -> None:
    found = curve()
    np.testing.assert_allclose(found.thresholds, [0.1, 0.2, 0.6, 0.7, 0.9])
    np.testing.assert_allclose(found.precision, [3 / 6, 3 / 5, 2 / 3, 1 / 2, 1])
    np.testing.assert_allclose(found.recall, [1, 1, 2 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(found.kept, [0.1, 0.3, 0.5, 0.7, 0.8])
    np.testing.assert_allclose(curve("above").kept, [0.9, 0.7, 0.5, 0.3, 0.2])


def test_a_curve_is_what_counting_at_every_threshold_gives() -> None:
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 30, 400).astype(np.float32) / 30
    positive, corpus = rng.random(400) < scores, rng.random(999).astype(np.float32)
    found = make_curve(scores, positive, Distribution.of(corpus))
    for at, threshold in enumerate(found.thresholds):
        called = scores >= threshold
        assert found.precision[at] == pytest.approx(positive[called].mean())
        assert found.recall[at] == pytest.approx(called[positive].mean())
        assert found.kept[at] == pytest.approx((corpus < threshold).mean())


def test_a_wanted_precision_gives_the_highest_recall_that_has_it() -> None:
    choice = choose_by_precision(curve(), 0.6)
    assert (choice.threshold, choice.recall) == (0.1999, 1)
    assert choose_by_precision(curve(), 0.95).threshold == 0.8999
    low, high = choice.interval
    assert low < choice.precision < high
    bad = make_curve(SCORES, ~POSITIVE, CORPUS)
    with pytest.raises(
        ValueError, match=r"no threshold has a precision of 0.9: the highest is 0.5"
    ):
        choose_by_precision(bad, 0.9)


def test_a_wanted_kept_share_gives_the_strictest_threshold_that_keeps_it() -> None:
    assert choose_by_kept_share(curve(), 0.6).kept == pytest.approx(0.7)
    assert choose_by_kept_share(curve(), 0.5).kept == pytest.approx(0.5)
    assert choose_by_kept_share(curve("above"), 0.6).kept == pytest.approx(0.7)
    with pytest.raises(ValueError, match=r"no threshold keeps 0.9 of the corpus: the most is 0.8"):
        choose_by_kept_share(curve(), 0.9)
    with pytest.raises(ValueError, match="wanted kept share is 90: more than 0, at most 1"):
        choose_by_kept_share(curve(), 90)


def test_a_threshold_has_few_decimals_and_divides_the_same_texts() -> None:
    assert short_between(0.2, 0.7) == 0.6999
    assert short_between(0.98761, 0.98769) == 0.98768
    assert short_between(0.98761, 0.98771) == 0.9877
    assert short_between(0.5, 0.5 + 1e-7) == pytest.approx(0.5 + 5e-8, abs=1e-12)
    rng = np.random.default_rng(2)
    for low, high in np.sort(rng.random((200, 2)), axis=1):
        assert low < short_between(low, high) < high


def test_wilsons_interval_is_that_of_the_tables() -> None:
    assert wilson(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert wilson(1.0, 5)[1] == 1


@pytest.mark.parametrize(
    ("positive", "corpus", "message"),
    [
        (np.zeros(6, np.bool_), CORPUS, "0 of 6 labelled rows have the label"),
        (np.ones(6, np.bool_), CORPUS, "6 of 6 labelled rows have the label"),
        (POSITIVE, Distribution.of(np.empty(0)), "the corpus has 0 texts"),
    ],
)
def test_nothing_to_calibrate_on_is_refused(
    positive: np.ndarray, corpus: Distribution, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_curve(SCORES, positive, corpus)
    with pytest.raises(ValueError, match="keep is 'right'"):
        curve("right")


@pytest.mark.parametrize(("keep", "sign"), [("below", "<"), ("above", ">=")])
def test_a_choice_becomes_a_condition_that_a_policy_takes(keep: str, sign: str) -> None:
    choice = choose_by_precision(curve(keep), 0.95)
    evidence = describe(choice, curve(keep), 'the "best" model', "rows.parquet", "the catalog")
    written = condition_toml(make_condition(choice, "passage_rudeness", "safety", evidence))
    policy = Policy.from_document({"name": "p", **tomllib.loads(written)["policy"]})
    (condition,) = policy.conditions
    assert condition.require == f"passage_rudeness {sign} 0.8999"
    assert condition.source is not None
    assert condition.source.startswith('the "best" model: from 0.8999 on precision 1.000 (0.207 to')
    assert "recall 0.333 on 6 rows of rows.parquet; keeps " in condition.source


def test_the_picture_is_well_formed_and_shows_three_lines_and_the_choice(tmp_path: Path) -> None:
    path = tmp_path / "curve.svg"
    write_picture(curve(), choose_by_precision(curve(), 0.95), "rudeness <&> more", path)
    root = ET.parse(path).getroot()
    tag = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{tag}polyline")) == 3
    texts = [one.text or "" for one in root.iter(f"{tag}text")]
    assert {"precision", "recall", "kept share", "rudeness <&> more"} <= set(texts)
    assert "0.8999: precision 1.00, recall 0.33, keeps 80.0%" in texts


# With a catalog ---------------------------------------------------------------------------------


RECIPE = """
[signals]
classifiers = {{ rudeness = "{model}" }}
[policy]
name = "polite"
[[policy.conditions]]
name = "rude"
stage = "safety"
require = "passage_rudeness < 0.5"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    table = write_table(folder / "rude.parquet")
    train(Lesson(table, "rude", Columns(split="split"), Split(value="test"), SMALL), folder / "one")
    return folder / "one"


def kept(catalog: Catalog) -> list[str]:
    with catalog.reader() as connection:
        rows = connection.execute("select positive from curated order by pair_id").fetchall()
    return [text for (text,) in rows]


def write_recipe(folder: Path, model: str) -> Path:
    path = folder / "polite.toml"
    path.write_text(RECIPE.format(model=model), "utf-8")
    return path


@pytest.mark.slow
def test_a_recipe_with_a_classifier_keeps_what_it_says_and_measures_again_what_changed(
    model: Path, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [f'{{"query": "问题{i}", "positive": "{t}"}}' for i, t in enumerate(KIND + RUDE)]
    pairs.write_text("\n".join(lines), "utf-8")
    catalog = Catalog.create(str(tmp_path / "corpus"))
    ingest_files(catalog, find_sources([str(pairs)], (), (), None))
    copy_model(model, tmp_path / "two", label="ok")
    assert curate(catalog, load_recipe(write_recipe(tmp_path, str(model)))).measured_pairs == 12
    assert kept(catalog) == KIND
    recipe = load_recipe(write_recipe(tmp_path, "two"))  # a path from where the recipe is
    assert curate(catalog, recipe).measured_pairs == 12
    assert kept(catalog) == RUDE
    # Back to the first: readers must not see the other model's scores.
    first = load_recipe(write_recipe(tmp_path, str(model)))
    assert curate(catalog, first).measured_pairs == 12
    assert kept(catalog) == KIND
    assert curate(catalog, first).measured_pairs == 0

    asked = Calibration(
        model.parent / "rude.parquet", Columns(), kept=0.5, signal="passage_rudeness"
    )
    done = calibrate(str(model), asked, catalog)
    assert done.curve.texts == 12
    assert done.choice is not None
    assert done.choice.kept == pytest.approx(0.5)
    assert "keeps 50.0% of 12 texts of the catalog (passage_rudeness)" in done.toml()
    with pytest.raises(ValueError, match=r"passage_rudeness has the version .* run lode curate"):
        calibrate(str(tmp_path / "two"), asked, catalog)
    other = Calibration(asked.table, Columns(), kept=0.5, signal="passage_kindness")
    with pytest.raises(ValueError, match="passage_kindness is not measured in this catalog"):
        calibrate(str(model), other, catalog)

    # Pairs that come while another recipe names no classifier are measured when one does again.
    plain = tmp_path / "plain.toml"
    plain.write_text(
        RECIPE.split("[policy]")[1]
        .join(["[policy]", ""])
        .replace("passage_rudeness < 0.5", "passage_chars > 0"),
        "utf-8",
    )
    more = tmp_path / "more.jsonl"
    more.write_text('{"query": "又一个", "positive": "你这个大傻瓜"}\n', "utf-8")
    ingest_files(catalog, find_sources([str(more)], (), (), None))
    assert curate(catalog, load_recipe(plain)).measured_pairs == 1
    assert len(kept(catalog)) == 13
    assert curate(catalog, first).measured_pairs == 1
    assert kept(catalog) == KIND


# Commands ---------------------------------------------------------------------------------------


def run(*words: str) -> str:
    app = typer.Typer()
    register(app)
    found = CliRunner().invoke(app, words)
    if found.exception is not None:
        raise found.exception
    return found.output


def test_the_commands_train_evaluate_and_calibrate(model: Path, tmp_path: Path) -> None:
    table, folder = str(model.parent / "rude.parquet"), str(tmp_path / "rude")
    said = run(
        "classifier", "train", table, folder, "--positive", "rude", "--held-out", "0.3",
        "--buckets", "2000", "--epochs", "40", "--learning-rate", "0.5", "--about", "rudeness",
    )  # fmt: skip
    assert "30% of the texts, drawn by their keys" in said
    card = (tmp_path / "rude" / "card.md").read_text("utf-8")
    assert "--positive rude --held-out 0.3 --buckets 2000 --epochs 40 --learning-rate 0.5" in card
    assert [line.split(" >=")[0] for line in run("classifier", "evaluate", folder, table)
            .splitlines()[1:]] == ["rude", "majority", "96 learned keywords"]  # fmt: skip
    files = {"--picture": str(tmp_path / "rude.svg"), "--policy": str(tmp_path / "rude.toml")}
    options = [word for option in files.items() for word in option]
    said = run("calibrate", folder, table, "--precision", "0.9", *options)
    assert 'require = "passage_rude < 0.' in said
    assert tomllib.loads(Path(files["--policy"]).read_text("utf-8"))["policy"]["conditions"]
    assert Path(files["--picture"]).read_text("utf-8").startswith("<svg")
    with pytest.raises(ValueError, match="give one of them"):
        run("calibrate", folder, table, "--precision", "0.9", "--kept", "0.5")
    with pytest.raises(ValueError, match=r"--split is 'test': write COLUMN=VALUE"):
        run("classifier", "evaluate", folder, table, "--split", "test")
