"""Teacher embeddings in a pack: the vectors of the catalog's stores, row by row."""

from pathlib import Path

import numpy as np
import pytest

from catalog.errors import CatalogError
from catalog.lake import Catalog
from catalog.pack import Pack, PackError, PackSettings, build_pack
from catalog.snapshots import Snapshot, create_snapshot
from mining.embed import embed
from mining.encoder import SIDES, Encoder, EncoderSettings
from mining.pack_vectors import StoredVectors
from tests.pack_catalog import make_catalog, pair

ENCODER = EncoderSettings("lexical-16")
ROWS = [pair(1, n, f"问题{n % 9}", f"第{n}个回答") for n in range(20)]
ROWS[3]["negatives"] = ["不在目录里的负例"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Snapshot]:
    catalog = make_catalog(tmp_path_factory.mktemp("vectors") / "corpus", ROWS)
    snapshot = create_snapshot(catalog, "v1", "keep")
    for side in SIDES:
        embed(catalog, snapshot, ENCODER, side)
    return catalog, snapshot


def test_every_row_has_the_vector_of_its_text(
    made: tuple[Catalog, Snapshot], tmp_path: Path
) -> None:
    catalog, snapshot = made
    # Shards of 7: a batch reaches across several.
    source = StoredVectors(catalog, ENCODER)
    build_pack(catalog, snapshot, tmp_path / "v1", PackSettings(texts_per_shard=7), vectors=source)
    pack = Pack.open(tmp_path / "v1", verify=True)
    encoder = Encoder.load(ENCODER)
    for side in SIDES:
        rows = np.arange(len(pack.ids(side)))[::-1]
        expected = encoder.encode(pack.texts(side, rows), side).astype(np.float16)
        np.testing.assert_array_equal(pack.vectors(side, rows), expected)
    given = pack.num_texts("passage") - 1
    assert given == len(pack.ids("passage"))
    assert np.isnan(pack.vectors("passage", np.array([given]))).all()


def test_a_pack_without_vectors_says_how_to_get_them(
    made: tuple[Catalog, Snapshot], tmp_path: Path
) -> None:
    pack = build_pack(*made, tmp_path / "v1")
    with pytest.raises(PackError, match="lode pack --vectors"):
        pack.vectors("query", np.array([0]))
    with pytest.raises(PackError, match="vectors is None, asked for 'lexical-16"):
        build_pack(*made, tmp_path / "v1", vectors=StoredVectors(made[0], ENCODER))


def test_embeddings_that_are_not_there_are_asked_for(
    made: tuple[Catalog, Snapshot],
) -> None:
    with pytest.raises(CatalogError, match="no query embeddings of lexical-32"):
        StoredVectors(made[0], EncoderSettings("lexical-32"))
