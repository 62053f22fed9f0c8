"""Character n-grams: probabilities that sum to 1, and corrupted texts that are seen as such."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import lode
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import create_snapshot
from curation.curate import curate
from curation.demo.corpus import source_rows
from curation.demo.passages import SOURCES
from curation.ingest import ingest_files
from curation.ngrams.learn import learn_ngrams
from curation.ngrams.model import FIRST_ID, START, UNKNOWN, fold_table, load_ngrams, save_ngrams
from curation.ngrams.settings import NgramSettings
from curation.recipes import load_recipe
from curation.sources import find_sources
from curation.texts import from_strings
from tests.corrupted_texts import CORRUPTIONS
from tests.sources import jsonl, write
from tests.tiny_catalog import copy_catalog, fetch

SMALL = ["abcab", "abd", "bca", "ab cab", "aab"]
ALL = NgramSettings(min_character_count=1, min_trigram_count=1)


def passages(seed: int, rows: int = 300) -> list[str]:
    source = next(one for one in SOURCES if one.name == "retrieval")
    made = source_rows(source, rows, seed)
    return [row["positive"] for row in made if row["defect"] is None]


@pytest.fixture(scope="module")
def learned():
    return learn_ngrams([from_strings(passages(1)), from_strings(passages(2))])


@pytest.mark.parametrize("settings", [ALL, NgramSettings(100, 1, 2)])
def test_the_probabilities_of_what_may_follow_sum_to_one(settings: NgramSettings) -> None:
    model = learn_ngrams([from_strings(SMALL)], settings)
    words = [UNKNOWN, *range(FIRST_ID, FIRST_ID + len(model.codes))]
    table = dict(
        zip(model.keys.tolist(), zip(model.values, model.backoffs, strict=True), strict=True)
    )

    def probability(u: int, v: int, w: int) -> float:
        if (found := table.get(u << 42 | v << 21 | w)) is not None:
            return 2.0 ** found[0]
        back = table.get(u << 21 | v)
        weight = 2.0 ** back[1] if back is not None else 1.0
        if (found := table.get(v << 21 | w)) is not None:
            return weight * 2.0 ** found[0]
        return weight * 2.0 ** (model.unigram_backoffs[v] + model.unigrams[w])

    contexts = [
        (START, START),
        *((START, w) for w in words),
        *((u, v) for u in words for v in words),
    ]
    for u, v in contexts:
        total = sum(probability(u, v, w) for w in words)
        assert total == pytest.approx(1, abs=1e-4), (u, v)


def test_bits_are_those_of_a_slow_walk(learned) -> None:
    table = dict(
        zip(learned.keys.tolist(), zip(learned.values, learned.backoffs, strict=True), strict=True)
    )
    ids = {chr(code): FIRST_ID + i for i, code in enumerate(learned.codes.tolist())}

    def slow(text: str) -> float:
        folded = "".join(chr(fold_table()[ord(c)]) for c in text)
        own = [ids.get(c, UNKNOWN) for c in re.sub(" +", " ", folded)]
        u = v = START
        total = 0.0
        for w in own:
            total -= 14 if w == UNKNOWN else 0
            if (found := table.get(u << 42 | v << 21 | w)) is not None:
                total += found[0]
            else:
                back = table.get(u << 21 | v)
                total += back[1] if back is not None else 0
                found = table.get(v << 21 | w)
                total += (
                    found[0] if found is not None
                    else learned.unigram_backoffs[v] + learned.unigrams[w]
                )  # fmt: skip
            u, v = v, w
        return -total / len(own)

    texts = [*passages(3, 20), "完全不一样的文字 ABC 2024", "龘"]
    found = learned.bits(from_strings(texts))
    assert found.tolist() == pytest.approx([slow(text) for text in texts], rel=1e-4)


def test_what_counts_as_the_same_has_the_same_bits(learned) -> None:
    pairs = [("第3章 Abc", "第７章　aBC"), ("一  二", "一 二"), ("价格12元", "价格98元")]
    for one, other in pairs:
        bits = learned.bits(from_strings([one, other]))
        assert bits[0] == bits[1]
    assert np.isnan(learned.bits(from_strings(["", None]))).all()


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_corrupted_texts_have_more_bits_than_held_out_ones(learned, name: str) -> None:
    rng = np.random.default_rng(0)
    clean = passages(9, 200)
    worse = [CORRUPTIONS[name](text, rng) for text in clean]
    changed = [i for i, text in enumerate(worse) if text != clean[i]]
    assert len(changed) > 50
    before, after = (learned.bits(from_strings(texts))[changed] for texts in (clean, worse))
    # Area under the ROC curve: how often a corrupted text has more bits than a clean one.
    area = np.mean(after[:, None] > before[None, :])
    assert area > 0.85, area


def test_a_model_is_written_whole_and_the_same(learned, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_ngrams(learned, tmp_path / name, {"snapshot": "v1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    texts = from_strings(passages(4, 10))
    assert load_ngrams(tmp_path / "a").bits(texts).tolist() == learned.bits(texts).tolist()
    (tmp_path / "c").write_bytes((tmp_path / "a").read_bytes()[:1000])
    with pytest.raises(ValueError, match="is no n-gram model"):
        load_ngrams(tmp_path / "c")
    with pytest.raises(ValueError, match="too little text"):
        learn_ngrams([from_strings(["一二三"])])
    with pytest.raises(ValueError, match="max_chars is 0"):
        NgramSettings(0)


def test_chunks_change_nothing() -> None:
    texts = passages(1)
    one = learn_ngrams([from_strings(texts)])
    many = learn_ngrams([from_strings(texts[at : at + 7]) for at in range(0, len(texts), 7)])
    assert one.keys.tolist() == many.keys.tolist()
    assert one.values.tolist() == many.values.tolist()


@pytest.mark.slow
def test_a_recipe_measures_bits_and_a_policy_asks_for_them(tmp_path, empty_catalog) -> None:
    corpus = copy_catalog(empty_catalog, tmp_path / "corpus")
    clean = passages(1)
    bad = [CORRUPTIONS["shuffled"](text, np.random.default_rng(1)) for text in passages(5, 40)]

    def ingest(name: str, texts: list[str]) -> None:
        rows = [{"query": f"{name}{i}", "positive": text} for i, text in enumerate(texts)]
        ingest_files(corpus, find_sources([write(tmp_path, f"{name}.jsonl", jsonl(*rows))]))

    ingest("clean", clean)
    commit_policy(corpus, Policy("all", (Condition("any", "rules", require="true"),)))
    create_snapshot(corpus, "v1")
    words = [
        "ngrams", "learn", "v1", str(tmp_path / "own.ngrams"), "--catalog", corpus.location.url,
    ]  # fmt: skip
    done = CliRunner().invoke(lode.app, words)
    assert done.exit_code == 0, done.output
    assert "name it in a recipe" in done.output
    ingest("bad", bad)
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        '[signals]\nngrams = { bits = "own.ngrams" }\n[policy]\nname = "fluent"\n'
        '[[policy.conditions]]\nname = "not_fluent"\nstage = "quality"\n'
        'require = "passage_bits < 7"\nwhere = "passage_chars >= 10"\n'
    )
    curate(corpus, load_recipe(recipe))
    found = fetch(
        corpus,
        "select source, count(*) filter (kept), count(*), min(passage_bits) from verdicts "
        "join signals using (pair_id) join pairs using (pair_id) group by 1 order by 1",
    )
    (_, kept_bad, all_bad, _), (_, kept_clean, all_clean, low) = found
    assert (all_bad, all_clean) == (len(bad), len(clean))
    assert kept_bad <= 0.1 * all_bad
    assert kept_clean >= 0.9 * all_clean
    assert low > 0
    recipe.write_text(recipe.read_text().replace("own.ngrams", "other.ngrams"))
    with pytest.raises(
        ValueError, match=r"there is no such file; make one with: lode ngrams learn"
    ):
        curate(corpus, load_recipe(recipe))
