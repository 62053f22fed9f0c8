"""New models: a BERT of any size with random weights, and a tokenizer learned from a snapshot."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from catalog.bounds import check_at_least_one
from catalog.draws import draw
from catalog.lake import Catalog
from catalog.records import write_json
from catalog.snapshots import Snapshot, snapshot_reader
from mining.model_modules import POOLING_KEYS

SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Texts that the tokenizer is learned from: more change little of 8,000 pieces.
TOKENIZER_TEXTS: Final = 200_000
_READ_ROWS: Final = 10_000


@dataclass(frozen=True)
class NewModelSettings:
    """The size of a new BERT; heads are 32 wide where nothing else is said."""

    layers: int = 4
    width: int = 256
    heads: int | None = None
    inner: int | None = None  # None: four times the width
    vocabulary: int = 8000
    max_tokens: int = 512
    pooling: str = "mean"
    seed: int = 1

    def __post_init__(self) -> None:
        check_at_least_one(self, "layers", "width", "vocabulary", "max_tokens")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of {self.num_heads} heads")

    @property
    def num_heads(self) -> int:
        """How many attention heads there are."""
        return self.heads or max(1, self.width // 32)


def make_model(
    catalog: Catalog, snapshot: Snapshot, folder: Path, settings: NewModelSettings
) -> Path:
    """Write the folder of a new model; the same snapshot and settings make the same model."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; choose another folder for the new model")
    tokenizer = learn_tokenizer(partial(sample_texts, catalog, snapshot, settings.seed), settings)
    tokenizer.save_pretrained(folder)
    _make_bert(settings, len(tokenizer)).save_pretrained(folder)
    modes = {key: mode == settings.pooling for key, mode in POOLING_KEYS.items()}
    if not any(modes.values()):
        raise ValueError(
            f"pooling is {settings.pooling!r}; allowed are {', '.join(POOLING_KEYS.values())}"
        )
    write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": settings.width, **modes}
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": settings.max_tokens})
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    (folder / "2_Normalize").mkdir(exist_ok=True)
    return folder


def sample_texts(catalog: Catalog, snapshot: Snapshot, seed: int) -> Iterator[str]:
    """Yield about TOKENIZER_TEXTS queries and passages of kept rows, chosen by hash."""
    share = min(1.0, TOKENIZER_TEXTS / max(1, 2 * snapshot.kept))
    with snapshot_reader(catalog, snapshot) as connection:
        reader = connection.execute(
            "select pair_id, query, positive from pairs join verdicts using (pair_id) where kept "
            "order by pair_id"
        ).to_arrow_reader(_READ_ROWS)
        for batch in reader:
            ids = batch.column(0).to_numpy()
            drawn = draw(seed, "tokenizer", ids) >> np.uint64(1) < int(share * (2**63 - 1))
            for row in np.flatnonzero(drawn):
                for column in (1, 2):
                    text = batch.column(column)[int(row)].as_py()
                    if text:
                        yield text


def learn_tokenizer(texts: Callable[[], Iterator[str]], settings: NewModelSettings) -> Any:
    """Learn a lower-casing WordPiece tokenizer, Han characters one by one, as BERT's is.

    The texts are read twice: the library numbers the ##characters in an order that changes from
    call to call, and merges pieces that are equally frequent by their numbers. Known beforehand,
    they always have the same. It is BERT's own class: any release of transformers loads it.
    """
    import transformers

    characters = _learn_pieces(texts(), [], len(SPECIAL))
    inner = sorted(piece for piece in characters if piece.startswith("##") and len(piece) == 3)
    bert: Any = transformers.BertTokenizer
    return bert(
        vocab=_learn_pieces(texts(), inner, settings.vocabulary), do_lower_case=True,
        strip_accents=False, model_max_length=settings.max_tokens,
    )  # fmt: skip


def _learn_pieces(texts: Iterator[str], first: Sequence[str], size: int) -> dict[str, int]:
    """Return pieces and their ids: special ones, ``first``, all characters, then frequent ones."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from tokenizers.trainers import WordPieceTrainer

    learned = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    learned.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    learned.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIAL, *first], show_progress=False
    )
    learned.train_from_iterator(texts, trainer)
    pieces: dict[str, int] = learned.get_vocab()
    return pieces


def _make_bert(settings: NewModelSettings, vocabulary: int) -> Any:
    import transformers

    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=settings.inner or 4 * settings.width,
        max_position_embeddings=settings.max_tokens,
        pad_token_id=0,
    )
    drawn = int(draw(settings.seed, "new model", np.array([settings.width]))[0] >> np.uint64(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(drawn)
        return transformers.BertModel(config, add_pooling_layer=False)
