import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catalog.errors import PolicyError
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.recipe_files import RecipeError, read_recipe, shipped_recipes
from catalog.snapshots import create_snapshot
from curation.curate import curate
from curation.demo.corpus import DemoCorpus, generate
from curation.demonstrate import demo_recipe, demonstrate, found
from curation.ingest import find_sources, ingest_files
from curation.recipes import load_recipe, load_sources

pytestmark = pytest.mark.slow

ONE = ExecutorSettings(workers=1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, DemoCorpus, list[str]]:
    """A whole demonstration: its catalog, its corpus and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    demonstrate(folder, 6_000, ExecutorSettings(workers=2), said.append)
    return Catalog.open(str(folder / "corpus")), generate(folder / "raw", 6_000), said


def test_the_demo_finds_what_was_planted(demo: tuple[Catalog, DemoCorpus, list[str]]) -> None:
    catalog, corpus, _ = demo
    judged = found(catalog)
    missed = {
        defect: (read, rejected)
        for defect, (read, rejected, _reason) in judged.items()
        if defect is not None and rejected < 0.9 * read
    }
    assert missed == {}
    assert set(judged) - {None} == {d for d in corpus.planted if d in judged}
    read, rejected, _ = judged[None]
    assert read > 4_000
    assert rejected <= 0.01 * read


def test_the_demo_quarantines_exactly_the_unreadable_rows(
    demo: tuple[Catalog, DemoCorpus, list[str]],
) -> None:
    catalog, corpus, _ = demo
    with catalog.reader() as connection:
        rows = connection.execute("select count(*) from quarantine").fetchone()
    unreadable = ("bad_json", "broken_utf8", "empty_positive")
    assert rows == (sum(corpus.planted.get(defect, 0) for defect in unreadable),)


def test_the_demo_says_what_it_found(demo: tuple[Catalog, DemoCorpus, list[str]]) -> None:
    text = "\n".join(demo[2])
    for word in ("mojibake", "near_duplicate", "quarantine", "snapshot demo"):
        assert word in text


def test_curating_again_does_nothing(demo: tuple[Catalog, DemoCorpus, list[str]]) -> None:
    catalog, corpus, _ = demo
    before = catalog.version()
    assert curate(catalog, demo_recipe(corpus), ONE).measured_pairs == 0
    assert catalog.version() == before


def test_a_new_file_is_the_only_one_that_is_measured(tmp_path: Path) -> None:
    corpus = generate(tmp_path / "raw", 400)
    sources = load_sources(corpus.recipe)
    later = sources.pop("qa")
    catalog = Catalog.create(str(tmp_path / "corpus"))
    recipe = demo_recipe(corpus)
    ingest_files(catalog, find_sources(recipe=sources), executor=ONE)
    first = curate(catalog, recipe, ONE).measured_pairs
    ingest_files(catalog, find_sources(recipe={"qa": later}), executor=ONE)
    second = curate(catalog, recipe, ONE).measured_pairs
    with catalog.reader() as connection:
        counts = connection.execute(
            "select (select count(*) from pairs), (select count(*) from signals_0001), "
            "(select count(*) from band_keys), (select count(*) from text_ids)"
        ).fetchone()
    assert first > second > 0
    assert counts == (first + second,) * 4


def test_incremental_curation_keeps_what_a_single_one_keeps(tmp_path: Path) -> None:
    corpus = generate(tmp_path / "raw", 400)
    sources = load_sources(corpus.recipe)
    recipe = demo_recipe(corpus)
    digests = []
    for name, steps in (("whole", [sources]), ("parts", [{k: v} for k, v in sources.items()])):
        catalog = Catalog.create(str(tmp_path / name))
        for step in steps:
            ingest_files(catalog, find_sources(recipe=step), executor=ONE)
            curate(catalog, recipe, ONE)
        digests.append(create_snapshot(catalog, "v1").digest)
    assert digests[0] == digests[1]


def test_an_unknown_signal_stops_before_any_work(tmp_path: Path) -> None:
    corpus = generate(tmp_path / "raw", 60)
    catalog = Catalog.create(str(tmp_path / "corpus"))
    ingest_files(catalog, find_sources(recipe=load_sources(corpus.recipe)), executor=ONE)
    path = tmp_path / "mine.toml"
    path.write_text(
        '[policy]\n[[policy.conditions]]\nname = "a"\nstage = "rules"\n'
        'require = "passage_han_shar > 0.3"\n'
    )
    before = catalog.version()
    with pytest.raises(PolicyError, match="passage_han_share"):
        curate(catalog, load_recipe(path), ONE)
    assert catalog.version() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[polcy]", "did you mean 'policy'"),
        ("[signals]\nword_list = []\n[policy]", "did you mean 'word_lists'"),
        ("[recipe]", r"has no \[policy\]"),
        ("[policy", "not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_is_allowed(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_every_shipped_recipe_loads() -> None:
    sections = {name: read_recipe(path) for name, path in shipped_recipes().items()}
    assert "policy" in sections["conan-v1"]
    for name, content in sections.items():
        assert content["recipe"]["title"]
        if "policy" in content:
            assert load_recipe(name).policy.conditions


def test_killed_at_any_point_the_same_command_ends_with_the_same_digest(tmp_path: Path) -> None:
    corpus = generate(tmp_path / "raw", 3_000)
    script = (
        "import sys; from pathlib import Path\n"
        "from curation.demonstrate import demo_recipe\n"
        "from curation.demo.corpus import generate\n"
        "from curation.curate import curate\n"
        "from curation.ingest import find_sources, ingest_files\n"
        "from curation.recipes import load_sources\n"
        "from catalog.lake import Catalog\n"
        "from catalog.executors import ExecutorSettings\n"
        "if __name__ == '__main__':\n"
        "    folder, raw = sys.argv[1:]\n"
        "    corpus = generate(raw, 3000)\n"
        "    catalog = Catalog.create(folder)\n"
        "    ingest_files(catalog, find_sources(recipe=load_sources(corpus.recipe)),\n"
        "                 executor=ExecutorSettings(2))\n"
        "    curate(catalog, demo_recipe(corpus), ExecutorSettings(2))\n"
    )
    program = tmp_path / "job.py"
    program.write_text(script)

    def start(folder: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, str(program), str(folder), str(corpus.folder)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        return subprocess.Popen(command, env=environment, start_new_session=True)

    began = time.perf_counter()
    assert start(tmp_path / "whole").wait() == 0
    whole_s = time.perf_counter() - began
    expected = create_snapshot(Catalog.open(str(tmp_path / "whole")), "v1").digest

    kills = int(os.environ.get("LODE_KILLS", "3"))
    killed = tmp_path / "killed"
    for number in range(kills):
        process = start(killed)
        time.sleep(whole_s * (number + 1) / (kills + 1))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(killed).wait() == 0
    assert create_snapshot(Catalog.open(str(killed)), "v1").digest == expected
