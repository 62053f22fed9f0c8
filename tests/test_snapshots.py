import threading
from hashlib import md5, sha256

import pytest

from catalog import duck
from catalog.errors import CatalogError, PolicyError
from catalog.files import delete_file_rows
from catalog.jobs import open_job
from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.records import to_json
from catalog.schema import PAIRS
from catalog.snapshots import (
    create_snapshot,
    diff_rows,
    diff_snapshots,
    list_snapshots,
    load_snapshot,
    measure,
    snapshot_reader,
)
from tests.tiny_catalog import KEPT, POLICY, A, B, add_file, fetch, own_ids, pa, pair

EVERYTHING = Policy("everything", (Condition("any", "rules", require="true"),))


def kept_in(catalog: Catalog, name: str) -> list[int]:
    with snapshot_reader(catalog, load_snapshot(catalog, name)) as connection:
        rows = connection.execute(
            "select pair_id from curated where query is not null order by pair_id"
        ).fetchall()
    return [pair_id for (pair_id,) in rows]


def change_threshold(catalog: Catalog, chars: int) -> Policy:
    """Commit the corpus' policy with another length."""
    changed = tuple(
        Condition(c.name, c.stage, require=f"passage_chars >= {chars}")
        if c.name == "long_enough"
        else c
        for c in POLICY.conditions
    )
    policy = Policy("zh", changed, POLICY.prefer)
    commit_policy(catalog, policy)
    return policy


def test_a_snapshot_names_version_policy_and_rows(tiny_corpus: Catalog) -> None:
    found = load_snapshot(tiny_corpus, "v1")
    assert (found.policy, found.policy_version) == (POLICY, 1)
    assert (found.pairs, found.kept) == (10, 5)
    assert len(found.digest) == 32
    assert kept_in(tiny_corpus, "v1") == KEPT


def test_a_snapshot_sees_what_was_there_after_anything(corpus: Catalog) -> None:
    before = load_snapshot(corpus, "v1")
    add_file(corpus, "more.jsonl", [pair(0, "新的问题", "新的一段回答")])
    commit_policy(corpus, EVERYTHING)
    corpus.transact(lambda c: delete_file_rows(c, 1))
    corpus.transact(lambda c: c.execute("delete from signals_0001"))
    assert load_snapshot(corpus, "v1") == before
    assert kept_in(corpus, "v1") == KEPT
    with snapshot_reader(corpus, before) as connection:
        assert measure(connection, before.policy) == (before.pairs, before.kept, before.digest)
        assert connection.execute("select rows_out from funnel").fetchall()[-1] == (before.kept,)


def test_a_name_stays_with_its_rows(corpus: Catalog) -> None:
    version = corpus.version()
    first = load_snapshot(corpus, "v1")
    assert create_snapshot(corpus, "v1", "zh") == first
    commit_policy(corpus, EVERYTHING)
    with pytest.raises(
        CatalogError, match=r"snapshot 'v1' exists and holds other rows .* immutable"
    ):
        create_snapshot(corpus, "v1")
    assert load_snapshot(corpus, "v1") == first
    assert create_snapshot(corpus, "v2").kept == 10
    with corpus.reader() as connection:
        assert [s.name for s in list_snapshots(connection)] == ["v1", "v2"]
    assert corpus.version() == version + 2


def test_a_snapshot_that_cannot_be_made_says_why(catalog: Catalog, corpus: Catalog) -> None:
    with pytest.raises(CatalogError, match="no policy yet; run: lode curate"):
        create_snapshot(catalog, "v1")
    with pytest.raises(CatalogError, match="'V 1': a name is made of"):
        create_snapshot(corpus, "V 1")
    with pytest.raises(PolicyError, match="no policy 'nosuch'"):
        create_snapshot(corpus, "v2", "nosuch")
    with pytest.raises(CatalogError, match="no snapshot 'v3'; there are: v1"):
        load_snapshot(corpus, "v3")


def test_the_digest_is_of_content_not_of_file_layout(
    corpus: Catalog, empty_catalog: Catalog
) -> None:
    before = load_snapshot(corpus, "v1")

    def rewrite(connection: duck.Connection) -> None:
        connection.execute("create temp table copy as from pairs order by positive")
        connection.execute("delete from pairs")
        connection.execute("insert into pairs from copy where pair_id % 2 = 0")
        connection.execute("insert into pairs from copy where pair_id % 2 = 1")

    corpus.transact(rewrite)
    after = create_snapshot(corpus, "v2")
    assert after.digest == before.digest
    assert after.lake_version > before.lake_version
    difference = diff_snapshots(corpus, before, after)
    assert (difference.added, difference.removed, difference.unchanged) == (0, 0, 6)


def test_the_digest_is_what_its_formula_says(tiny_corpus: Catalog) -> None:
    snapshot = load_snapshot(tiny_corpus, "v1")
    with snapshot_reader(tiny_corpus, snapshot) as connection:
        rows = connection.execute("select pair_id, query_key, positive_key from curated").fetchall()
        files = connection.execute("select file_id, sha256 from files order by 1").fetchall()
    lines = ["|".join(str(value) for value in row if value is not None) for row in rows]
    numbers = [int.from_bytes(md5(line.encode()).digest()[8:], "little") for line in lines]
    content = {"sum": str(sum(numbers)), "rows": len(rows), "files": [list(file) for file in files]}
    assert snapshot.digest == sha256(to_json(content).encode()).hexdigest()[:32]
    assert any(row[1] is None for row in rows)  # a passage without a query is among them


def test_the_digest_follows_every_kept_row(corpus: Catalog) -> None:
    digests = {load_snapshot(corpus, "v1").digest}
    changes = (
        "update pairs set positive_key = uuid() where pair_id = 4294967296",
        "delete from pairs where pair_id = 4294967297",
        "update files set sha256 = 'other' where file_id = 1",
    )
    for change in changes:
        corpus.transact(lambda c, sql=change: c.execute(sql))
        with corpus.reader() as connection:
            digests.add(measure(connection, POLICY)[2])
    assert len(digests) == 4
    corpus.transact(lambda c: c.execute("delete from pairs where pair_id = 4294967298"))
    with corpus.reader() as connection:  # that one was not kept
        assert measure(connection, POLICY)[2] in digests


def test_a_snapshot_holds_one_version_while_others_commit(corpus: Catalog) -> None:
    stop = threading.Event()

    def commit_for_ever() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            rows = [pair(number, f"问题{number}", f"这是第{number}段回答")]
            table = pa.Table.from_pylist(own_ids(rows, B), PAIRS)
            with open_job(corpus, "add", {"n": number}, {}) as job:
                with job.output.task("rows", 0) as output:
                    output.write("pairs", table)
                job.commit()

    thread = threading.Thread(target=commit_for_ever)
    thread.start()
    try:
        made = [create_snapshot(corpus, f"during-{number}") for number in range(3)]
    finally:
        stop.set()
        thread.join()
    for one in made:
        with snapshot_reader(corpus, one) as connection:
            assert measure(connection, one.policy) == (one.pairs, one.kept, one.digest)
    assert made[0].pairs < made[-1].pairs


def test_a_difference_says_why_pairs_came_and_went(corpus: Catalog) -> None:
    v1 = load_snapshot(corpus, "v1")
    change_threshold(corpus, 1)  # 嗯 is long enough now
    add_file(corpus, "more.jsonl", [pair(0, "新的问题", "新的一段回答")])
    corpus.transact(lambda c: c.execute(f"delete from pairs where pair_id = {A}"))
    corpus.transact(
        lambda c: c.execute(f"update signals_0001 set language = 'en' where pair_id = {B + 2}")
    )
    v2 = create_snapshot(corpus, "v2")
    difference = diff_snapshots(corpus, v1, v2)
    assert difference.reasons == [
        ("came", "exact", 1),  # its twin is gone
        ("came", "long_enough", 1),
        ("came", "new pair", 1),
        ("went", "chinese", 1),
        ("went", "pair deleted", 1),
    ]
    assert (difference.added, difference.removed) == (3, 2)
    rows = diff_rows(corpus, v1, v2, limit=10)
    assert [(row["pair_id"], row["change"], row["query"], row["why"]) for row in rows] == [
        (A + 0, "went", "怎么学钢琴", "pair deleted"),
        (A + 2, "came", "怎么学钢琴", "exact"),
        (A + 6, "came", "短", "long_enough"),
        (B + 2, "went", "今天的天气", "chinese"),
        (3 << 32, "came", "新的问题", "new pair"),
    ]
    assert diff_rows(corpus, v1, v2, limit=2) == rows[:2]
    back = diff_snapshots(corpus, v2, v1)
    assert (back.added, back.removed, back.unchanged) == (2, 3, difference.unchanged)


def test_a_snapshot_counts_no_passage_without_a_query(catalog: Catalog) -> None:
    add_file(catalog, "corpus.jsonl", [pair(0, None, "一段话"), pair(1, "问", "答")])
    commit_policy(catalog, EVERYTHING)
    made = create_snapshot(catalog, "v1")
    assert (made.pairs, made.kept) == (1, 1)
    with snapshot_reader(catalog, made) as connection:
        assert connection.execute("select count(*) from curated").fetchall() == [(2,)]


def test_two_empty_snapshots_do_not_differ(catalog: Catalog) -> None:
    commit_policy(catalog, EVERYTHING)
    one, two = create_snapshot(catalog, "a"), create_snapshot(catalog, "b")
    assert one.digest == two.digest
    assert diff_snapshots(catalog, one, two).reasons == []
    assert fetch(catalog, "select count(*) from snapshots") == [(2,)]
