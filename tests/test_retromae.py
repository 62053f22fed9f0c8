"""RetroMAE's losses against the formula written out token by token, and its prediction head."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, layer_norm

from tests import model_folders
from trainer import token_prediction
from trainer.masked_texts import MaskedTexts, Masker, MaskSettings
from trainer.model import EmbeddingModel, ModelSettings
from trainer.retromae import RetroMae
from trainer.token_prediction import TokenPrediction

TEXTS = ["怎么学钢琴", "ab c", "这个句子 d e f g"]


def model_of(folder: Path, pooling: str | None = None) -> EmbeddingModel:
    model = EmbeddingModel(ModelSettings(str(folder), pooling=pooling), 1, "float32", 64)
    return model.eval()


def masked_of(model: EmbeddingModel, share: float = 0.5) -> MaskedTexts:
    masker = Masker(model.tokenizer, 64, MaskSettings(share, 0.5), seed=3)
    masked = masker.mask(TEXTS, np.array([4, 9, 2]), 1)
    # As in a run: the longest first, and others padded.
    return masked.take(np.argsort(-masked.texts.lengths))


def norm(x: Tensor, module: Any) -> Tensor:
    return layer_norm(x, x.shape[-1:], module.weight, module.bias, module.eps)


def token_loss(losses: RetroMae, words_VD: Tensor, hidden_D: Tensor, token: int) -> Tensor:
    head = losses.head
    changed = norm(torch.nn.functional.gelu(head.dense(hidden_D)), head.norm)
    scores = [changed @ words_VD[piece] + head.bias[piece] for piece in range(len(words_VD))]
    return torch.logsumexp(torch.stack(scores), 0) - scores[token]


def decode(losses: RetroMae, query_D: Tensor, seen: list[Tensor], width_of_head: int) -> Tensor:
    """Compute the decoder at one position, head by head, over what it sees alone."""
    decoder = losses.decoder
    query, keys = decoder.query(query_D), [decoder.key(x) for x in seen]
    values = [decoder.value(x) for x in seen]
    found = []
    for first in range(0, len(query), width_of_head):
        part = slice(first, first + width_of_head)
        scores = torch.stack([query[part] @ key[part] for key in keys]) / math.sqrt(width_of_head)
        weights = torch.softmax(scores, 0)
        found.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
    hidden = norm(query_D + decoder.output(torch.cat(found)), decoder.output_norm)
    changed = decoder.outer(torch.nn.functional.gelu(decoder.inner(hidden)))
    return norm(hidden + changed, decoder.outer_norm)


@pytest.mark.parametrize("layout", ["cls", "mean"])
def test_losses_are_those_of_a_slow_loop_over_tokens(layout: str, tmp_path: Path) -> None:
    make = model_folders.bge if layout == "cls" else model_folders.m3e
    model = model_of(make(tmp_path / "base"))
    losses = RetroMae(model, seed=1).eval()
    masked = masked_of(model)
    found = losses(model, masked)

    bert: Any = model.tokens.transformer
    words_VD = bert.embeddings.word_embeddings.weight
    position_LD = bert.embeddings.position_embeddings.weight
    encoder = decoder = torch.zeros(())
    visible_NQL = masked.visibility()
    starts = np.cumsum(masked.texts.lengths) - masked.texts.lengths
    plain = transformers.BertModel.from_pretrained(tmp_path / "base").eval()
    for n, (start, length) in enumerate(zip(starts, masked.texts.lengths, strict=True)):
        span = slice(start, start + length)
        seen_1L = torch.from_numpy(masked.seen[span])[None]
        hidden_LD = plain(input_ids=seen_1L).last_hidden_state[0]
        sentence_D = hidden_LD[0] if layout == "cls" else hidden_LD.mean(0)
        tokens = masked.texts.tokens[span]
        embedded_LD = plain.embeddings(input_ids=torch.from_numpy(tokens)[None])[0]
        for i in range(1, length - 1):  # neither [CLS] nor [SEP]
            if masked.is_masked[start + i]:
                encoder = encoder + token_loss(losses, words_VD, hidden_LD[i], int(tokens[i]))
            seen = [sentence_D] + [
                embedded_LD[j] for j in range(1, length) if j != i and visible_NQL[n, i - 1, j]
            ]
            decoded_D = decode(losses, sentence_D + position_LD[i], seen, model_folders.HIDDEN // 4)
            decoder = decoder + token_loss(losses, words_VD, decoded_D, int(tokens[i]))
    assert masked.is_masked.sum() > 3
    torch.testing.assert_close(found.encoder, encoder, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.decoder, decoder, rtol=1e-4, atol=1e-4)


def test_micro_batches_add_up_to_the_losses_of_all(tmp_path: Path) -> None:
    model = model_of(model_folders.bge(tmp_path / "base"))
    losses, masked = RetroMae(model, seed=1).eval(), masked_of(model)
    together = losses(model, masked)
    alone = [losses(model, masked.take(np.array([row]))) for row in range(len(masked))]
    torch.testing.assert_close(together.encoder, sum(each.encoder for each in alone))
    torch.testing.assert_close(together.decoder, sum(each.decoder for each in alone))


def test_the_decoder_learns_through_the_sentence_embedding(tmp_path: Path) -> None:
    model = model_of(model_folders.bge(tmp_path / "base"))
    losses = RetroMae(model, seed=1)
    losses(model, masked_of(model)).decoder.backward()
    last: Any = model.tokens.transformer.encoder.layer[-1].output.dense.weight
    assert last.grad.abs().max() > 0
    assert all(weight.grad is not None for weight in losses.parameters())


def test_texts_without_content_have_losses_of_zero(tmp_path: Path) -> None:
    model = model_of(model_folders.bge(tmp_path / "base"))
    losses = RetroMae(model, seed=1)
    masker = Masker(model.tokenizer, 64, MaskSettings(), seed=3)
    found = losses(model, masker.mask(["", ""], np.array([1, 2]), 0))
    (found.encoder + found.decoder).backward()
    assert found.encoder.item() == found.decoder.item() == 0


@pytest.mark.parametrize("scores", [1, 100, 1 << 24])
def test_the_loss_in_parts_is_cross_entropy_gradients_and_all(
    scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_prediction, "SCORES", scores)
    config = transformers.BertConfig(hidden_size=8, num_attention_heads=2, vocab_size=13)
    torch.manual_seed(1)
    head = TokenPrediction(config)
    torch.nn.init.normal_(head.bias)
    hidden_CD, words_VD = torch.randn(30, 8), torch.randn(13, 8)
    tokens_C = torch.randint(0, 13, (30,))
    inputs = [hidden_CD, words_VD, *head.parameters()]
    gradients = []
    for way in ("ours", "plain"):
        for each in inputs:
            each.grad = None
            each.requires_grad_()
        if way == "ours":
            loss = head(hidden_CD, words_VD, tokens_C)
        else:
            changed_CD = head.norm(head.activation(head.dense(hidden_CD)))
            scores_CV = changed_CD @ words_VD.T + head.bias
            loss = cross_entropy(scores_CV, tokens_C, reduction="sum")
        (loss * 0.25).backward()
        gradients.append([loss.detach(), *(each.grad for each in inputs)])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("old", [False, True])
def test_a_published_prediction_head_is_taken_up(old: bool, tmp_path: Path) -> None:
    folder = model_folders.bge(tmp_path / "base")
    config = transformers.BertConfig.from_pretrained(folder)
    torch.manual_seed(5)
    published = transformers.BertForMaskedLM(config)
    torch.nn.init.normal_(published.cls.predictions.bias)
    weights = {name: weight.clone() for name, weight in published.state_dict().items()}
    if old:
        weights = {
            name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")
            if "predictions" in name else name: weight for name, weight in weights.items()
        }  # fmt: skip
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model = model_of(folder)
    losses = RetroMae(model, seed=1)
    assert losses.has_published_head
    hidden_CD = torch.randn(5, config.hidden_size)
    words_VD: Any = model.tokens.transformer.embeddings.word_embeddings.weight
    tokens_C = torch.arange(5) + 7
    expected = cross_entropy(published.cls(hidden_CD), tokens_C, reduction="sum")
    torch.testing.assert_close(losses.head(hidden_CD, words_VD, tokens_C), expected)


def test_without_a_published_head_the_seed_alone_says_what_the_new_one_is(tmp_path: Path) -> None:
    model = model_of(model_folders.bge(tmp_path / "base"))
    one, again, other = (RetroMae(model, seed).state_dict() for seed in (1, 1, 2))
    assert not RetroMae(model, 1).has_published_head
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["decoder.query.weight"], other["decoder.query.weight"])
    assert not set(one) & set(load_file(tmp_path / "base" / "model.safetensors"))
