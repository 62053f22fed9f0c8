"""How fast is a pack built and read, beside Hugging Face datasets and DuckDB on the same texts?

python -m benchmarks.pack                                    # 500,000 pairs made up here
python -m benchmarks.pack --pairs 'data/pairs/*.parquet'     # columns text1 and text2
"""

import argparse
import gc
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe
from catalog.jobs import open_job
from catalog.lake import Catalog
from catalog.pack import Pack, PackSettings, build_pack
from catalog.policies import Policy
from catalog.policy_commit import commit_policy
from catalog.schema import PAIRS, TEXT_IDS, create_table_sql
from catalog.snapshots import Snapshot, create_snapshot

BATCH = 256
DEPTH = 200
SEED = 7
CANDIDATES = pa.schema(
    [
        ("query_id", pa.int64()),
        ("run", pa.string()),
        ("passage_ids", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float32())),
        ("filtered_by", pa.list_(pa.uint8())),
        ("positive_score", pa.float32()),
    ]
)
# md5 stands in for the key of the normal form, which the catalog does not compute.
PAIRS_SQL = """
    select ({file}::bigint << 32) + row_number() over () - 1 as pair_id, 'benchmark' as source,
      'text-text' as form, 'retrieval' as task, text1 as query, text2 as positive,
      null::varchar[] as negatives, null::double as label, null::varchar as url,
      null::varchar as meta, pair_id & 4294967295 as file_row,
      md5(text1)::uuid as query_key, md5(text2)::uuid as positive_key,
      md5(text1 || chr(1) || text2)::uuid as pair_key
    from read_parquet('{path}')
"""


def made_up_pairs(folder: Path, pairs: int) -> list[Path]:
    """Write pairs of a 20-character query and a passage of 380 characters on average."""
    random = np.random.default_rng(SEED)
    letters = np.array([chr(c) for c in range(0x4E00, 0x4E00 + 3000)])
    weights = 1 / np.arange(1, 3001)
    text = "".join(random.choice(letters, 4_000_000, p=weights / weights.sum()))
    paths = []
    for file, first in enumerate(range(0, pairs, 500_000)):
        count = min(500_000, pairs - first)
        at = random.integers(0, len(text) - 2000, (2, count))
        length = random.gamma(2, 190, count).astype(int).clip(5, 1900)
        table = pa.table(
            {
                "text1": [text[a : a + 20] for a in at[0].tolist()],
                "text2": [text[a : a + n] for a, n in zip(at[1].tolist(), length, strict=True)],
            }
        )
        paths.append(folder / f"pairs-{file}.parquet")
        pq.write_table(table, paths[-1], compression="zstd")
    return paths


def start_catalog(work: Path, pairs: str | None, made_up: int) -> tuple[Catalog, Snapshot]:
    """Empty the folder and make a catalog in it, of files that match a pattern or made-up pairs."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if pairs:
        pattern = Path(pairs)
        paths = sorted(pattern.parent.glob(pattern.name))
    else:
        paths = made_up_pairs(work, made_up)
    return make_catalog(work / "corpus", paths)


def make_catalog(folder: Path, paths: list[Path]) -> tuple[Catalog, Snapshot]:
    catalog = Catalog.create(str(folder))
    with duckdb.connect() as connection, open_job(catalog, "ingest", {}, {}) as job:
        connection.execute("set arrow_lossless_conversion = true")
        for file, path in enumerate(paths, start=1):
            sql = PAIRS_SQL.format(file=file, path=path)
            with job.output.task("read", file) as output:
                for batch in connection.execute(sql).to_arrow_reader(1 << 16):
                    output.write("pairs", pa.Table.from_batches([batch]).cast(PAIRS))
        job.commit()
    with catalog.reader() as reader, open_job(catalog, "ids", {}, {}) as job:
        ids = reader.execute(
            """
            select pair_id,
              min(pair_id) over (partition by query_key) as query_id,
              min(pair_id) over (partition by positive_key) as passage_id
            from pairs order by pair_id
            """
        ).to_arrow_table()
        with job.output.task("ids", 0) as output:
            output.write("text_ids", ids.cast(TEXT_IDS))
        job.commit()
    commit_policy(catalog, Policy("all", ()))
    return catalog, create_snapshot(catalog, "v1")


def add_candidates(catalog: Catalog, queries: int) -> int:
    """Add lists of random passages for some queries, a fifth of them removed; count the lists."""
    with catalog.reader() as reader:
        query_ids, passage_ids = (
            reader.execute(f"select distinct {side}_id from text_ids order by 1").fetchnumpy()[
                f"{side}_id"
            ]
            for side in ("query", "passage")
        )
    random = np.random.default_rng(SEED)
    chosen = query_ids[:: max(1, len(query_ids) // queries)][:queries]
    with open_job(catalog, "mine", {}, {}) as job:
        with job.output.task("mine", 0) as output:
            for block in np.array_split(chosen, max(1, len(chosen) // 5000)):
                found = random.choice(passage_ids, (len(block), DEPTH))
                offsets = np.arange(len(block) + 1, dtype=np.int32) * DEPTH
                scores = -np.sort(-random.random((len(block), DEPTH), np.float32))
                removed = (random.random((len(block), DEPTH)) < 0.2).astype(np.uint8)
                columns = [
                    pa.array(block),
                    pa.array(["run"] * len(block)),
                    pa.ListArray.from_arrays(offsets, found.ravel()),
                    pa.ListArray.from_arrays(offsets, scores.ravel()),
                    pa.ListArray.from_arrays(offsets, removed.ravel()),
                    pa.array(scores[:, 0]),
                ]
                output.write("candidates", pa.table(columns, schema=CANDIDATES))
        job.commit(lambda c: c.execute(create_table_sql("candidates", CANDIDATES)) and None)
    return len(chosen)


def rate(work: Callable[[np.ndarray], object], count: int, rounds: int) -> tuple[str, str]:
    """Time batches of random rows: texts a second of this core's time, and of the clock."""
    random = np.random.default_rng(SEED)
    batches = [np.sort(random.integers(0, count, BATCH)) for _ in range(rounds)]
    for batch in batches:
        random.shuffle(batch)
    work(batches[0])
    core, clock = [], []
    for batch in batches:
        started, ticked = time.perf_counter(), time.process_time()
        work(batch)
        core.append(BATCH / max(time.process_time() - ticked, 1e-9))
        clock.append(BATCH / (time.perf_counter() - started))
    return spread(core), spread(clock)


def spread(values: list[float]) -> str:
    return f"{min(values):,.0f} / {statistics.median(values):,.0f} / {max(values):,.0f}"


def drop_from_memory(folder: Path) -> None:
    """Forget the pages of a folder's files; what is still mapped stays."""
    gc.collect()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cold_times(open_reader: Callable[[], Callable[[np.ndarray], object]], count: int) -> str:
    """Time opening with the first batch, and ten batches after it."""
    random = np.random.default_rng(SEED + 1)
    started = time.perf_counter()
    read = open_reader()
    read(random.integers(0, count, BATCH))
    first = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(10):
        read(random.integers(0, count, BATCH))
    return f"{1000 * first:6.1f} ms {10 * BATCH / (time.perf_counter() - started):9,.0f} texts/s"


def duckdb_reader(catalog: Catalog, ids: np.ndarray) -> Iterator[Callable[[np.ndarray], object]]:
    with catalog.reader() as connection:

        def read(rows: np.ndarray) -> object:
            wanted = ", ".join(map(str, ids[rows].tolist()))
            return connection.execute(
                f"select pair_id, positive from pairs where pair_id in ({wanted})"
            ).fetchall()

        yield read


def report_build(catalog: Catalog, snapshot: Snapshot, work: Path) -> dict[str, Pack]:
    packs = {}
    for name, settings in {
        "plain": PackSettings(),
        "zstd": PackSettings(compression="zstd"),
        "candidates": PackSettings(candidates_run="run"),
    }.items():
        folder = work / name
        started, ticked = time.perf_counter(), time.process_time()
        pack = build_pack(catalog, snapshot, folder, settings)
        seconds, core = time.perf_counter() - started, time.process_time() - ticked
        size = sum(file.bytes for file in pack.manifest.files.values())
        print(
            f"build {name:11s} {len(pack) / seconds:9,.0f} pairs/s "
            f"{len(pack) / core:9,.0f} pairs/core-s {seconds:6.1f} s {size / 1e6:8,.0f} MB"
        )
        packs[name] = pack
    return packs


def report_texts(catalog: Catalog, packs: dict[str, Pack], work: Path, rounds: int) -> None:
    plain, small = packs["plain"], packs["zstd"]
    count = len(plain.ids("passage"))
    texts = pa.table({"text": plain.texts("passage", np.arange(count))})
    pq.write_table(texts, work / "texts.parquet")
    del texts
    peer = datasets.Dataset.from_parquet(
        str(work / "texts.parquet"), cache_dir=str(work / "datasets")
    )
    readers: dict[str, Callable[[np.ndarray], object]] = {
        "pack": texts_of(plain),
        "pack, zstd": texts_of(small),
        "datasets": lambda rows: peer[rows.tolist()]["text"],
    }
    print(f"\ntexts of {BATCH} random rows of {count:,}: per second, min / median / max")
    for name, read in readers.items():
        core, clock = rate(read, count, rounds)
        print(f"{name:12s} a core {core:36s} clock {clock}")
    for read in duckdb_reader(catalog, plain.ids("passage")):
        core, clock = rate(read, count, 5)
        print(f"{'DuckDB by id':12s} a core {core:36s} clock {clock}")


def report_cold_texts(work: Path, count: int) -> None:
    print("\nfrom cold files: opening and one batch, then ten batches, by the clock")
    for name in ("plain", "zstd"):
        drop_from_memory(work / name)
        cold = cold_times(lambda name=name: texts_of(Pack.open(work / name)), count)
        print(f"pack, {name:6s} {cold}")
    arrow = sorted(str(path) for path in (work / "datasets").rglob("*.arrow"))
    drop_from_memory(work / "datasets")
    print(f"datasets     {cold_times(lambda: dataset_of(arrow), count)}")


def texts_of(pack: Pack) -> Callable[[np.ndarray], object]:
    return lambda rows: pack.texts("passage", rows)


def dataset_of(files: list[str]) -> Callable[[np.ndarray], object]:
    """Open Arrow files as a dataset: this walks them from end to end."""
    peer = datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])
    return lambda rows: peer[rows.tolist()]["text"]


def report_windows(catalog: Catalog, pack: Pack, lists: int, rounds: int) -> None:
    mined = np.flatnonzero(pack.candidates.index != 0xFFFF_FFFF)
    random = np.random.default_rng(SEED)
    batches = [random.choice(mined, BATCH) for _ in range(rounds)]
    print(f"\nwindows of {BATCH} queries, n = 7, of {lists:,} lists: ms, min / median / max")

    def timed(work: Callable[[np.ndarray], object], batches: list[np.ndarray]) -> str:
        spent = []
        for batch in batches:
            ticked = time.process_time()
            work(batch)
            spent.append(1000 * (time.process_time() - ticked))
        return f"{min(spent):.3f} / {statistics.median(spent):.3f} / {max(spent):.3f}"

    steps = random.integers(1, 12, BATCH)
    print("pack, one i          ", timed(lambda rows: pack.window(rows, 3, 7), batches))
    print("pack, an i per query ", timed(lambda rows: pack.window(rows, steps, 7), batches))
    print(
        "pack, with texts     ",
        timed(lambda rows: pack.texts("passage", pack.window(rows, 3, 7).rows.ravel()), batches),
    )
    ids = pack.ids("query")
    with catalog.reader() as connection:

        def query(rows: np.ndarray) -> object:
            wanted = ", ".join(map(str, ids[rows].tolist()))
            return connection.execute(
                "select [p for p, k in passage_ids if filtered_by[k] = 0][25:31] "
                f"from candidates where query_id in ({wanted})"
            ).fetchall()

        print("DuckDB               ", timed(query, batches[:5]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", help="Parquet files with the columns text1 and text2")
    parser.add_argument("--made-up", type=int, default=500_000, help="pairs to make up instead")
    parser.add_argument("--queries", type=int, default=50_000, help="queries with candidates")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lode-pack")
    arguments = parser.parse_args()
    work: Path = arguments.work
    catalog, snapshot = start_catalog(work, arguments.pairs, arguments.made_up)
    lists = add_candidates(catalog, arguments.queries)
    print(describe(["duckdb", "numpy", "zstandard", "datasets"]))
    print(f"{snapshot.kept:,} pairs; load of the machine {os.getloadavg()[0]:.1f}\n")
    packs = report_build(catalog, snapshot, work)
    report_windows(catalog, packs["candidates"], lists, arguments.rounds)
    report_texts(catalog, packs, work, arguments.rounds)
    count = len(packs["plain"].ids("passage"))
    packs.clear()  # what is mapped cannot be dropped from memory
    report_cold_texts(work, count)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
