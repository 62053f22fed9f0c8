"""New models: the same texts make the same tokenizer, which other releases load, too."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.new_model import SPECIAL, NewModelSettings, learn_tokenizer


def texts() -> Iterator[str]:
    """Yield words of random letters: many pieces are equally frequent."""
    rng = np.random.default_rng(3)
    for _ in range(150):
        letters = rng.choice(list("abcdefgh0123"), (6, 5))
        yield "天地Ab " + " ".join("".join(word) for word in letters)


def test_the_same_texts_make_the_same_tokenizer() -> None:
    settings = NewModelSettings(1, 32, vocabulary=300, max_tokens=16)
    first, *others = (learn_tokenizer(texts, settings) for _ in range(4))
    assert all(other.get_vocab() == first.get_vocab() for other in others)
    assert len(first) == 300
    assert first.convert_ids_to_tokens(range(len(SPECIAL))) == list(SPECIAL)
    assert first.tokenize("天地 AB") == ["天", "地", "ab"]


def test_a_new_tokenizer_is_of_berts_class(tmp_path: Path) -> None:
    """transformers 4 does not know the class that transformers 5 gives to any other tokenizer."""
    learn_tokenizer(texts, NewModelSettings(1, 32, vocabulary=300)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "BertTokenizer"
