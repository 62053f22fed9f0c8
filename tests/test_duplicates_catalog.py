"""Deduplication of a real catalog: truths, increments, interruptions, conflicts."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import curation.deduplicate as deduplication
from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.files import delete_file_rows, first_pair_id, reserve_file_ids
from catalog.jobs import Job, open_job
from catalog.lake import Catalog
from catalog.schema import BAND_KEYS, PAIRS
from curation.deduplicate import Deduplicated, DuplicateSettings, deduplicate
from curation.duplicates import edges, steps
from curation.minhash import band_keys
from curation.texts import decode, normalize, pair_keys, text_keys

ONE_WORKER = ExecutorSettings(workers=1)
Row = tuple[str | None, str]


def add_file(
    catalog: Catalog,
    name: str,
    rows: Sequence[Row],
    settings: DuplicateSettings | None = None,
) -> int:
    """Put a source file into the catalog as ingestion and measuring leave it; return its number."""
    settings = settings or DuplicateSettings()
    [file_id] = reserve_file_ids(catalog, f"read-{name}", [(name, name)])
    queries, passages = (pa.array(side, pa.string()) for side in zip(*rows, strict=True))
    both = pc.binary_join_element_wise(queries, passages, "\n", null_handling="skip")
    keys, valid = band_keys(
        normalize(decode(passages if settings.text == "passage" else both)), settings.minhash
    )
    ids = pa.array(np.arange(len(rows)) + first_pair_id(file_id))
    query_keys, passage_keys = (text_keys(normalize(decode(side))) for side in (queries, passages))
    known = {
        "pair_id": ids,
        "source": pa.array([name] * len(rows)),
        "form": pa.array(["text-text"] * len(rows)),
        "task": pa.array(["retrieval"] * len(rows)),
        "query": queries,
        "positive": passages,
        "file_row": pa.array(np.arange(len(rows))),
        "query_key": query_keys,
        "positive_key": passage_keys,
        "pair_key": pair_keys(query_keys, passage_keys),
    }
    pairs = [known.get(field.name, pa.nulls(len(rows), field.type)) for field in PAIRS]
    bands = {f"b{band:02d}": pa.array(column, mask=~valid) for band, column in enumerate(keys.T)}
    with open_job(catalog, "read", {}, {"name": name}) as job:
        with job.output.task("rows", 0) as out:
            out.write("pairs", pa.table(pairs, PAIRS))
            columns = [
                {**known, **bands}.get(f.name, pa.nulls(len(rows), f.type)) for f in BAND_KEYS
            ]
            out.write("band_keys", pa.table(columns, BAND_KEYS))
        job.commit(
            lambda connection: connection.execute(
                "insert into files values (?, ?, ?, 0, ?, ?, 0)",
                [file_id, name, name, name, len(rows)],
            )
        )
    return file_id


def read(catalog: Catalog, sql: str) -> list[tuple]:
    with catalog.reader() as connection:
        return connection.execute(sql).fetchall()


def result(catalog: Catalog) -> tuple[list[tuple], ...]:
    """Everything that a deduplication writes."""
    return (
        read(catalog, "from text_ids order by pair_id"),
        read(catalog, "from duplicate_edges order by a_id, b_id"),
        read(catalog, "from duplicates order by pair_id, kind"),
    )


def text(seed: int, chars: int = 100) -> str:
    rng = np.random.default_rng(seed)
    return "".join(chr(code) for code in rng.integers(0x4E00, 0x9000, chars))


def mixed_rows(seed: int, count: int, families: int = 6) -> list[Row]:
    """Pairs of which many are similar to others, some equal on one side, some on both."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for _ in range(count):
        passage = text(int(rng.integers(families)), 200)
        for _ in range(int(rng.integers(0, 4))):
            at = int(rng.integers(0, 199))
            passage = passage[:at] + text(int(rng.integers(1 << 30)), 2) + passage[at + 2 :]
        rows.append((f"问{rng.integers(count)}", passage))
    rows += [rows[row] for row in rng.integers(0, count, count // 10)]
    rows += [(None, rows[row][1]) for row in rng.integers(0, count, count // 20)]
    rows += [("甲", "短"), ("乙", "短"), ("甲", " 短!"), (None, "无问"), (None, "无 问")]
    return rows


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.create(str(tmp_path / "corpus"))


def run(catalog: Catalog, **settings: object) -> Deduplicated:
    return deduplicate(catalog, DuplicateSettings(**settings), ONE_WORKER)


# What is found


def edited(passage: str, *places: int) -> str:
    return "".join("改" if at in places else char for at, char in enumerate(passage))


FILES: dict[str, list[Row]] = {
    "exact": [("问", "答"), ("问", "另答"), ("問 ", "答。"), ("别问", "答"), ("问", "答")],
    "sides": [("甲", "乙"), ("甲", "丙"), ("乙", "甲"), (None, "乙"), ("新", "丙")],
    "no query": [(None, "文章"), ("丁", "文章"), (None, "文 章")],
    "near": [
        ("一", text(102)),
        ("二", text(101)),
        ("三", edited(text(101), 50)),
        ("四", text(101)),
        ("五", edited(text(101), 50)),
    ],
    "template": [("六", edited(text(103), at)) for at in range(20, 26)],
    "mixed": mixed_rows(3, 150),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A catalog with a file for each claim, deduplicated."""
    catalog = Catalog.create(str(tmp_path_factory.mktemp("found") / "corpus"))
    for name, rows in FILES.items():
        add_file(catalog, name, rows)
    run(catalog, template_min_size=6)
    return catalog


def of_file(catalog: Catalog, name: str, table: str, *, ids: int, where: str = "true") -> list:
    """The rows of a table for a file, with the first ``ids`` columns counted from its first."""
    first = first_pair_id(list(FILES).index(name) + 1)
    rows = read(
        catalog,
        f"select * from {table} where pair_id between {first} and {first + 9999} and {where} "
        "order by pair_id",
    )
    return [
        tuple(None if number is None else number - first for number in row[:ids]) + row[ids:]
        for row in rows
    ]


EXACT = "(select pair_id, cluster_id, text_id, matched_id, * from duplicates where kind = 'exact')"
NEAR = EXACT.replace("exact", "near")


def columns(rows: list[tuple]) -> list[tuple]:
    """Cut what the fixed columns repeat: ids, then jaccard, cluster_size, template, survivor."""
    return [row[:4] + row[-4:] for row in rows]


def test_equal_pairs_are_exact_duplicates_and_the_first_survives(found: Catalog) -> None:
    # pair, cluster, text, matched, jaccard, size, template, survivor
    assert columns(of_file(found, "exact", EXACT, ids=4)) == [
        (0, 0, 0, 2, 1.0, 3, False, True),
        (2, 0, 2, 0, 1.0, 3, False, False),
        (4, 0, 4, 0, 1.0, 3, False, False),
    ]


def test_texts_are_named_by_the_first_pair_that_holds_them_on_that_side(found: Catalog) -> None:
    names = [[0, 0, 0], [1, 0, 1], [2, 2, 2], [3, None, 0], [4, 4, 1]]
    assert [list(row) for row in of_file(found, "sides", "text_ids", ids=3)] == names


def test_rows_without_a_query_are_exact_duplicates_of_each_other_only(found: Catalog) -> None:
    rows = of_file(found, "no query", EXACT, ids=4)
    assert [row[:2] for row in rows] == [(0, 0), (2, 0)]


def test_similar_passages_are_near_duplicates_with_all_their_pairs(found: Catalog) -> None:
    similarity = float(np.float32(91 / 101))
    assert columns(of_file(found, "near", NEAR, ids=4)) == [
        (1, 1, 1, 2, similarity, 2, False, True),
        (2, 1, 2, 1, similarity, 2, False, False),
        (3, 1, 1, 2, similarity, 2, False, True),
        (4, 1, 2, 1, similarity, 2, False, False),
    ]


def test_a_large_cluster_is_labelled_a_template(found: Catalog) -> None:
    rows = of_file(found, "template", NEAR, ids=4)
    assert [row[-3:-1] for row in rows] == [(6, True)] * 6
    assert not any(row[-2] for row in of_file(found, "near", NEAR, ids=4))


def test_edges_hold_the_exact_similarity_of_what_is_similar(found: Catalog) -> None:
    texts = read(found, "select pair_id, positive from pairs join text_ids using (pair_id) "
                        "where pair_id = passage_id")  # fmt: skip
    sets = {i: {t[at : at + 5] for at in range(len(t) - 4)} for i, t in texts if len(t) >= 5}
    expected = {
        (a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a in sets for b in sets if a < b
    }
    stored = {(a, b): jaccard for _, a, b, jaccard in read(found, "from duplicate_edges")}
    assert min(stored.values()) >= np.float32(0.7)
    assert all(stored[pair] == np.float32(expected[pair]) for pair in stored)
    near = {pair for pair, similarity in expected.items() if similarity >= 0.8}
    assert len(near) > 100
    assert len(near & stored.keys()) >= 0.98 * len(near)


def test_pairs_can_be_compared_as_a_whole(catalog: Catalog) -> None:
    settings = DuplicateSettings(text="pair")
    query, passage = text(3), text(4)
    rows = [
        (query, passage),
        (query[:-1], passage),  # similar as a whole
        (text(5), passage),  # the same passage, another question
        (None, passage),
        (query, passage),  # equal
    ]
    first = first_pair_id(add_file(catalog, "a", rows, settings))
    deduplicate(catalog, settings, ONE_WORKER)
    near = "select pair_id, text_id from duplicates where kind = 'near' order by pair_id"
    assert read(catalog, near) == [(first, first), (first + 1, first + 1), (first + 4, first)]


# Growing


@pytest.mark.slow
def test_new_files_give_what_all_files_at_once_give(tmp_path: Path) -> None:
    # With few bands a new text meets old ones only as neighbors of those that it shares a key with.
    few_bands = DuplicateSettings(bands=3, rows_per_band=10)
    files = {name: mixed_rows(seed, 60) for seed, name in enumerate("abc")}
    grown, whole = (Catalog.create(str(tmp_path / name)) for name in ("grown", "whole"))
    compared = 0
    for name, rows in files.items():
        add_file(grown, name, rows, few_bands)
        add_file(whole, name, rows, few_bands)
        compared += deduplicate(grown, few_bands, ONE_WORKER).compared
    assert compared == deduplicate(whole, few_bands, ONE_WORKER).compared
    assert result(grown) == result(whole)


def test_a_new_text_joins_clusters_that_were_apart(catalog: Catalog) -> None:
    passage = text(7, 200)
    left, right = edited(passage, 10, 30, 50), edited(passage, 90, 120, 150)  # 0.74 alike
    add_file(catalog, "a", [("左", left), ("左", left + "尾")])
    add_file(catalog, "b", [("右", right), ("右", right + "尾")])
    run(catalog)
    clusters = "select count(distinct cluster_id), count(*) from duplicates where kind = 'near'"
    assert read(catalog, clusters) == [(2, 4)]
    before = read(catalog, "from duplicate_edges")
    add_file(catalog, "c", [("中", edited(passage, 50, 90))])
    run(catalog)
    assert read(catalog, clusters) == [(1, 5)]
    assert set(before) < set(read(catalog, "from duplicate_edges"))


def test_nothing_new_is_nothing_to_do(catalog: Catalog) -> None:
    assert run(catalog) == Deduplicated(None)
    add_file(catalog, "a", mixed_rows(1, 20))
    assert run(catalog).job_id is not None
    version = catalog.version()
    assert run(catalog) == Deduplicated(None)
    assert run(catalog, memory_mb=500) == Deduplicated(None)
    assert catalog.version() == version


def test_another_threshold_compares_nothing_again(catalog: Catalog) -> None:
    add_file(catalog, "a", mixed_rows(1, 80))
    run(catalog)
    edges_before = read(catalog, "from duplicate_edges order by a_id, b_id")
    done = run(catalog, threshold=0.9)
    assert (done.new_pairs, done.compared) == (0, 0)
    assert read(catalog, "from duplicate_edges order by a_id, b_id") == edges_before
    near = "select min(jaccard) from duplicates where kind = 'near'"
    assert read(catalog, near)[0][0] >= np.float32(0.9)


@pytest.mark.slow
def test_another_edge_floor_starts_again(catalog: Catalog) -> None:
    add_file(catalog, "a", mixed_rows(1, 80))
    run(catalog, edge_floor=0.8)
    assert read(catalog, "select min(jaccard) from duplicate_edges")[0][0] >= np.float32(0.8)
    first = result(catalog)
    run(catalog)
    assert read(catalog, "select min(jaccard) from duplicate_edges")[0][0] < 0.8
    run(catalog, edge_floor=0.8)  # the settings of the first job, and not its result
    assert result(catalog) == first


@pytest.mark.slow
def test_a_replaced_file_starts_again(tmp_path: Path) -> None:
    rows = [mixed_rows(seed, 40) for seed in range(3)]
    replaced, whole = (Catalog.create(str(tmp_path / name)) for name in ("replaced", "whole"))
    add_file(replaced, "a", rows[0])
    gone = add_file(replaced, "b", rows[1])
    run(replaced)
    replaced.transact(lambda connection: delete_file_rows(connection, gone))
    add_file(replaced, "b2", rows[2])
    run(replaced)
    add_file(whole, "a", rows[0])
    reserve_file_ids(whole, "skipped", [("b", "b")])
    add_file(whole, "b2", rows[2])
    run(whole)
    assert result(replaced) == result(whole)


@pytest.mark.slow
def test_a_file_with_a_smaller_number_that_comes_late_starts_again(tmp_path: Path) -> None:
    rows = [mixed_rows(seed, 40) for seed in range(2)]
    late, whole = (Catalog.create(str(tmp_path / name)) for name in ("late", "whole"))
    reserve_file_ids(late, "read-a", [("a", "a")])  # its job has begun and has not ended
    add_file(late, "b", rows[1])
    run(late)
    add_file(late, "a", rows[0])
    run(late)
    add_file(whole, "a", rows[0])
    add_file(whole, "b", rows[1])
    run(whole)
    assert result(late) == result(whole)


# Small memory, many tasks, interruptions


@pytest.fixture
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut a few hundred rows into as many tasks as a large catalog has."""
    for name, value in (("KEYS", 100), ("ROWS", 1), ("PAIRS", 300), ("TEXTS", 40)):
        monkeypatch.setattr(deduplication, f"_TASK_{name}", value)
    monkeypatch.setattr(deduplication, "_BYTES_PER_KEY", (64 << 20) // 50)
    monkeypatch.setattr(edges, "_CHUNK_PAIRS", 50)


@pytest.mark.slow
def test_many_small_tasks_give_what_one_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    rows = [mixed_rows(seed, 60) for seed in range(2)]
    one, many = (Catalog.create(str(tmp_path / name)) for name in ("one", "many"))
    for number, some in enumerate(rows):
        add_file(one, f"{number}", some)
        run(one)
    request.getfixturevalue("_small_tasks")
    finished: list[str] = []
    for number, some in enumerate(rows):
        add_file(many, f"{number}", some)
        deduplicate(
            many,
            DuplicateSettings(memory_mb=64),
            ONE_WORKER,
            lambda stage, done: finished.append(stage),
        )
    assert result(many) == result(one)
    assert {steps.FIND, steps.COMPARE, steps.COMPARE_MORE} < set(finished)


STAGES = ["text-ids", "near-find", "near-collect", "near-compare", "near-propose"]
STAGES += ["near-compare-more", "near-clusters"]

KILLED = """
import os, signal, sys
import curation.deduplicate as deduplication
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from curation.duplicates.steps import ComparePairs

deduplication._TASK_PAIRS = 300
do = ComparePairs.do

def do_one_and_die(step, rank, out):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    do(step, rank, out)

ComparePairs.do = do_one_and_die
deduplication.deduplicate(Catalog.open(sys.argv[1]), None, ExecutorSettings(workers=1))
"""


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = mixed_rows(5, 80)
    killed, whole = (Catalog.create(str(tmp_path / name)) for name in ("killed", "whole"))
    add_file(killed, "a", rows)
    add_file(whole, "a", rows)
    run(whole)
    script = [sys.executable, "-c", KILLED, killed.location.url]
    assert subprocess.run(script, capture_output=True).returncode == -signal.SIGKILL
    assert result(killed) == ([], [], [])
    monkeypatch.setattr(deduplication, "_TASK_PAIRS", 300)
    run(killed)
    assert result(killed) == result(whole)


@pytest.mark.slow
def test_a_run_that_fails_in_every_stage_goes_on_where_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = mixed_rows(5, 80)
    failed, whole = (Catalog.create(str(tmp_path / name)) for name in ("failed", "whole"))
    add_file(failed, "a", rows)
    add_file(whole, "a", rows)
    run(whole)
    begun: list[str] = []
    before = steps.DuplicateStep.run

    def failing_once(self: steps.DuplicateStep, *given: object) -> object:
        begun.append(self.stage)
        if begun.count(self.stage) == 1:
            raise OSError("no space left")
        return before(self, *given)

    monkeypatch.setattr(steps.DuplicateStep, "run", failing_once)
    for _ in STAGES:
        with pytest.raises(OSError, match="no space left"):
            run(failed)
        assert result(failed) == ([], [], [])
    run(failed)
    assert begun == [stage for stage in STAGES for _ in range(2)]
    assert result(failed) == result(whole)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = mixed_rows(5, 80)
    stopped, whole = (Catalog.create(str(tmp_path / name)) for name in ("stopped", "whole"))
    add_file(stopped, "a", rows)
    add_file(whole, "a", rows)
    run(whole, memory_mb=256)
    monkeypatch.setattr(deduplication, "_TASK_KEYS", 1)
    monkeypatch.setattr(deduplication, "_BYTES_PER_KEY", (256 << 20) // 50)
    run_tasks, finds = deduplication.run_tasks, []

    def in_this_process(job: Job, stage: str, work: list, tasks: int, *given: object) -> None:
        if stage == steps.COLLECT and len(finds) == 1:
            raise OSError("no space left")
        if stage == steps.FIND:
            finds.append(tasks)
        run_tasks(job, stage, work, tasks, ONE_WORKER)

    monkeypatch.setattr(deduplication, "run_tasks", in_this_process)
    settings = DuplicateSettings(memory_mb=256)
    with pytest.raises(OSError, match="no space left"):
        deduplicate(stopped, settings, ExecutorSettings(workers=1))
    deduplicate(stopped, settings, ExecutorSettings(workers=3))
    assert finds[0] == finds[1] > settings.bands
    assert result(stopped) == result(whole)


# Refusals


def test_pairs_without_band_keys_are_refused(catalog: Catalog) -> None:
    add_file(catalog, "a", mixed_rows(1, 20))
    catalog.transact(lambda connection: connection.execute("delete from band_keys"))
    with pytest.raises(CatalogError, match=r"1 files have no band keys yet .*lode curate"):
        run(catalog)


def test_a_file_that_goes_meanwhile_stops_the_commit(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = add_file(catalog, "a", mixed_rows(1, 20))
    commit = deduplication._commit

    def late(*given: object) -> Deduplicated:
        catalog.transact(lambda connection: delete_file_rows(connection, file_id))
        return commit(*given)

    monkeypatch.setattr(deduplication, "_commit", late)
    with pytest.raises(CatalogError, match=f"file {file_id} was replaced.*nothing was changed"):
        run(catalog)
    assert result(catalog) == ([], [], [])
