"""A store keeps vectors whole, apart by specification, and finds every one of them again."""

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catalog.errors import CatalogError
from mining import key_index
from mining.embeddings import EmbeddingSpec, EmbeddingStore, keys_of
from mining.key_index import ABSENT, build_index, find, open_index, rows_of, shards_of

WIDTH = 4
SPEC = EmbeddingSpec(
    model="tiny",
    revision="1",
    side="passage",
    instruction="",
    max_tokens=8,
    width=WIDTH,
    dtype="float32",
)


def keys(*numbers: int) -> np.ndarray:
    """Make keys that are spread like hashes."""
    mixed = [number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128) for number in numbers]
    return np.array([[key >> 64, key & (1 << 64) - 1] for key in mixed], np.uint64).reshape(-1, 2)


def rows(*numbers: int) -> np.ndarray:
    """Make the vector of each number; float16 holds it exactly."""
    return np.array([[number, -number, 0.5, 0] for number in numbers], np.float32).reshape(-1, 4)


def filled(root: Path, *shards: range) -> EmbeddingStore:
    store = EmbeddingStore.open(root, SPEC)
    for shard in shards:
        store.write_shard(keys(*shard), rows(*shard))
    return store.refresh()


def test_every_vector_is_found_whichever_shard_holds_it(tmp_path: Path) -> None:
    store = filled(tmp_path, range(50), range(50, 51), range(51, 400))
    assert len(store) == 400
    order = np.random.default_rng(0).permutation(400).tolist()
    found = store.lookup(keys(*order, 7, 7))
    assert found.dtype == np.float16
    assert np.array_equal(found, rows(*order, 7, 7))
    assert store.lookup(keys()).shape == (0, WIDTH)


def test_a_text_that_has_a_vector_is_not_missing(tmp_path: Path) -> None:
    assert EmbeddingStore.open(tmp_path, SPEC).missing(keys(1, 2)).all()
    filled(tmp_path, range(10))
    reopened = EmbeddingStore.open(tmp_path, SPEC)
    assert reopened.missing(keys(3, 10, 9)).tolist() == [False, True, False]


def test_a_lookup_of_a_missing_text_says_how_many_and_what_to_run(tmp_path: Path) -> None:
    store = filled(tmp_path, range(10))
    with pytest.raises(CatalogError, match=r"2 of 3 texts .* of tiny \(passage\).*embed"):
        store.lookup(keys(3, 10, 11))


def test_a_store_sees_the_shards_of_its_opening_until_it_is_refreshed(tmp_path: Path) -> None:
    store = filled(tmp_path, range(10))
    store.write_shard(keys(10), rows(10))
    assert store.missing(keys(10)).tolist() == [True]
    assert store.refresh().missing(keys(10)).tolist() == [False]


def test_the_same_shard_twice_is_one_shard(tmp_path: Path) -> None:
    store = filled(tmp_path, range(10), range(10))
    assert (len(store.shards), len(store)) == (1, 10)


def _made_index(store: EmbeddingStore) -> Path:
    store.lookup(keys(9))
    return next(store.folder.glob("index-*.npy"))


def test_a_text_in_two_shards_is_found_in_the_first(tmp_path: Path) -> None:
    store = filled(tmp_path, range(10), range(5, 12))
    first = store.shards[0]
    index = np.load(_made_index(store))
    assert (len(store), index.shape) == (17, (3, 17))
    assert (shards_of(find(index, store.keys(first))) == 0).all()


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"revision": "2"},
        {"side": "query"},
        {"instruction": "为这个句子生成表示："},
        {"max_tokens": 9},
        {"dtype": "bfloat16"},
        {"pooling": "cls"},
    ],
)
def test_vectors_of_two_specifications_never_meet(tmp_path: Path, change: dict) -> None:
    filled(tmp_path, range(10))
    other = EmbeddingStore.open(tmp_path, replace(SPEC, **change))
    assert other.missing(keys(*range(10))).all()
    other.write_shard(keys(1), rows(99))
    assert np.array_equal(EmbeddingStore.open(tmp_path, SPEC).lookup(keys(1)), rows(1))


def test_a_folder_of_another_specification_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path, range(10))
    path = store.folder / "spec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": "2"}))
    with pytest.raises(CatalogError, match=r"holds vectors of .*move the folder away"):
        EmbeddingStore.open(tmp_path, SPEC)


def test_vectors_that_are_not_of_the_model_are_refused(tmp_path: Path) -> None:
    store = EmbeddingStore.open(tmp_path, SPEC)
    with pytest.raises(ValueError, match=r"of shape \(1, 3\) for 1 texts of tiny, .* 4 wide"):
        store.write_shard(keys(1), np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"of shape \(1, 4\) for 2 texts"):
        store.write_shard(keys(1, 2), rows(1))
    for value in (1e6, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"tiny gives a value of .* at most 65,504"):
            store.write_shard(keys(1), np.full((1, WIDTH), value))
    assert [path.name for path in store.folder.iterdir()] == ["spec.json"]


def test_a_store_travels_to_another_process_without_its_maps(tmp_path: Path) -> None:
    store = filled(tmp_path, range(1000))
    store.lookup(keys(1))
    travelled = pickle.dumps(store)
    assert len(travelled) < 2_000
    assert np.array_equal(pickle.loads(travelled).lookup(keys(1, 999)), rows(1, 999))


# Damage and kills ---------------------------------------------------------------------------------


def flip(path: Path, offset: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("part", ["keys", "vectors"])
def test_a_flipped_byte_is_found_and_its_texts_are_missing_again(tmp_path, part: str) -> None:
    store = filled(tmp_path, range(10), range(10, 20))
    assert store.verify() == []
    victim = store.shards[1]
    own = store.keys(victim).copy()
    flip(store.folder / f"{victim.name}.{part}.npy")
    assert EmbeddingStore.open(tmp_path, SPEC).verify() == [victim]
    rest = store.discard([victim])
    assert [shard.name for shard in rest.shards] == [store.shards[0].name]
    assert rest.missing(own).all()
    assert len(list(store.folder.glob(f"{victim.name}*"))) == 0
    assert np.array_equal(filled(tmp_path, range(10), range(10, 20)).lookup(keys(15)), rows(15))


@pytest.mark.parametrize("damage", ["truncated", "empty", "gone", "header"])
def test_a_file_that_cannot_be_mapped_is_found(tmp_path: Path, damage: str) -> None:
    store = filled(tmp_path, range(10))
    path = store.folder / f"{store.shards[0].name}.vectors.npy"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "gone":
        path.unlink()
    else:
        flip(path, 1)
    assert store.verify() == list(store.shards)
    with pytest.raises(CatalogError, match=r"vectors\.npy cannot be read .*; run: lode embed"):
        store.lookup(keys(1))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "other"}'])
def test_a_damaged_manifest_is_no_shard(tmp_path: Path, content: str) -> None:
    store = filled(tmp_path, range(10))
    (store.folder / f"{store.shards[0].name}.json").write_text(content)
    assert EmbeddingStore.open(tmp_path, SPEC).missing(keys(1)).all()
    assert np.array_equal(filled(tmp_path, range(10)).lookup(keys(1)), rows(1))


KILLED = """
import os, signal, sys
from pathlib import Path
from mining import embeddings
from tests.test_embeddings import SPEC, keys, rows

steps = int(sys.argv[2])
real = Path.rename
def rename(self, target):
    global steps
    if "shard-" in str(target):
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps -= 1
    return real(self, target)
Path.rename = rename
store = embeddings.EmbeddingStore.open(Path(sys.argv[1]), SPEC)
store.write_shard(keys(1, 2), rows(1, 2))
"""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_between_the_files_of_a_shard_leaves_nothing_visible(tmp_path, renames) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(renames)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=os.environ, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    store = EmbeddingStore.open(tmp_path, SPEC)
    assert store.shards == ()
    assert store.missing(keys(1, 2)).all()
    store.write_shard(keys(1, 2), rows(1, 2))
    store = store.refresh()
    assert store.verify() == []
    assert np.array_equal(store.lookup(keys(2, 1)), rows(2, 1))


# The index ----------------------------------------------------------------------------------------


def test_a_lost_or_damaged_index_is_made_again(tmp_path: Path) -> None:
    filled(tmp_path, range(10)).lookup(keys(1))
    path = next(tmp_path.glob("*/index-*.npy"))
    for content in (None, b"", b"not an index", path.read_bytes()[:-8]):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert np.array_equal(EmbeddingStore.open(tmp_path, SPEC).lookup(keys(3)), rows(3))
        assert path.exists()


def test_the_index_of_older_shards_is_removed(tmp_path: Path) -> None:
    filled(tmp_path, range(10)).lookup(keys(1))
    old = next(tmp_path.glob("*/index-*.npy"))
    filled(tmp_path, range(10, 20)).lookup(keys(12))
    assert [path == old for path in tmp_path.glob("*/index-*.npy")] == [False]


def test_an_index_that_names_another_row_never_gives_its_vector(tmp_path: Path) -> None:
    store = filled(tmp_path, range(10))
    store.lookup(keys(1))
    path = next(tmp_path.glob("*/index-*.npy"))
    index = np.load(path)
    index[2] = index[2][::-1]
    np.save(path, index)
    with pytest.raises(
        CatalogError, match="was damaged and is removed; run the same command again"
    ):
        EmbeddingStore.open(tmp_path, SPEC).lookup(keys(*range(10)))
    assert np.array_equal(EmbeddingStore.open(tmp_path, SPEC).lookup(keys(1)), rows(1))


def test_keys_with_an_equal_upper_half_are_told_apart(tmp_path: Path) -> None:
    same = np.array([[5, lower] for lower in range(100)], np.uint64)
    top = np.array([[2**64 - 1, 2**64 - 1], [0, 0]], np.uint64)
    stored = [np.concatenate([same[50::2], top[:1]]), np.concatenate([same[:50:2], top[1:]])]
    build_index(tmp_path / "index.npy", stored)
    index = open_index(tmp_path / "index.npy", 52)
    places = find(index, np.concatenate([same, top]))
    assert (places[1:100:2] == ABSENT).all()
    for place, key in zip(places[[*range(0, 100, 2), 100, 101]], [*same[::2], *top], strict=True):
        assert stored[int(shards_of(place))][int(rows_of(place))].tolist() == key.tolist()
    with pytest.raises(ValueError, match="is not an index of 51 keys"):
        open_index(tmp_path / "index.npy", 51)


def test_an_index_does_not_depend_on_how_many_keys_are_sorted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [keys(*range(300)), keys(*range(200, 900))]
    build_index(tmp_path / "one.npy", shards)
    monkeypatch.setattr(key_index, "BLOCK_KEYS", 37)
    build_index(tmp_path / "many.npy", shards)
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "many.npy").read_bytes()


def test_keys_are_the_two_halves_of_a_uuid() -> None:
    values = [bytes(range(16)), bytes(16), b"\xff" * 16]
    column = pa.array(values, pa.uuid())
    expected = [[int.from_bytes(v[:8], "big"), int.from_bytes(v[8:], "big")] for v in values]
    assert keys_of(column).tolist() == expected
    assert keys_of(column[1:]).tolist() == expected[1:]
    assert keys_of(pa.chunked_array([column[:1], column[1:]])).tolist() == expected
    assert keys_of(column[:0]).shape == (0, 2)
    with pytest.raises(ValueError, match="1 of 2 text keys are null"):
        keys_of(pa.array([values[0], None], pa.uuid()))
    with pytest.raises(ValueError, match="text keys are string; they must be uuid"):
        keys_of(pa.array(["a"]))
