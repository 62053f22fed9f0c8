"""Embeddings of a catalog as a source of vectors for packs."""

import hashlib

import pyarrow as pa

from catalog.errors import CatalogError
from catalog.lake import Catalog
from mining.embed import embeddings_folder
from mining.embeddings import EmbeddingStore, Half, keys_of
from mining.encoder import SIDES, EncoderSettings, spec_of


class StoredVectors:
    """The stores of a model's two sides; made by ``lode embed``."""

    def __init__(self, catalog: Catalog, settings: EncoderSettings) -> None:
        specs = {side: spec_of(settings, side) for side in SIDES}
        root = embeddings_folder(catalog)
        self.stores = {side: EmbeddingStore.open(root, spec) for side, spec in specs.items()}
        for side, store in self.stores.items():
            if not len(store):
                raise CatalogError(
                    f"the catalog has no {side} embeddings of {store.spec.model} with these "
                    "settings; run: lode embed"
                )
        keys = "\n".join(spec.key for spec in specs.values())
        digest = hashlib.sha256(keys.encode()).hexdigest()
        self.key = f"{specs['query'].model}-{digest[:12]}"
        self.width = specs["query"].width

    def lookup(self, side: str, keys: pa.Array) -> Half:
        """Return the vectors of texts; raise where one has none."""
        return self.stores[side].lookup(keys_of(keys))
