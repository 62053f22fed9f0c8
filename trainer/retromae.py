"""RetroMAE: a one-layer decoder rebuilds a text from its embedding and little of the text itself.

arXiv 2205.12035: the encoder reads a masked text, and its embedding has to carry what a weak
decoder needs; by *enhanced decoding* (section 3.3) it predicts every token, each from a context of
its own. Where the paper is silent the authors' program decides: token embeddings are the encoder's
embedding layer, norm included, and both losses share one prediction head.

Shapes: T tokens of all texts; N texts; L tokens of the longest; Q = L - 1 positions after the
first; C tokens that are predicted; H heads; E width of a head; D width; V vocabulary.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from catalog.draws import draw
from mining.model_folder import ModelFolder, first_position
from mining.pooling import pool
from mining.token_batches import TokenizedTexts
from trainer.masked_texts import MaskedTexts
from trainer.model import EmbeddingModel
from trainer.token_prediction import TokenPrediction, random_weights, take_up_head

# Word embeddings as wide as the layers, absolute positions, one norm: what the decoder reads.
ARCHITECTURES: Final = ("bert", "roberta", "xlm-roberta", "camembert")


class Sums(NamedTuple):
    """Summed cross-entropies of some texts: of masked tokens, and of all tokens of the decoder."""

    encoder: Tensor
    decoder: Tensor


class RetroMae(nn.Module):
    """Both losses of RetroMAE and all that only they need: the decoder and the prediction head."""

    def __init__(self, model: EmbeddingModel, seed: int) -> None:
        super().__init__()
        check_model(model.folder)
        config: Any = model.tokens.transformer.config
        self.head, self.decoder = TokenPrediction(config), EnhancedDecoder(config)
        drawn = int(draw(seed, "retromae", np.array([config.hidden_size]))[0] >> np.uint64(1))
        generator = torch.Generator().manual_seed(drawn)
        random_weights(self, config.initializer_range, generator)
        path = model.folder.transformer_path
        self.has_published_head = take_up_head(self.head, path, config.model_type)

    def forward(self, model: EmbeddingModel, masked: MaskedTexts) -> Sums:
        """Return the summed losses of texts of one micro-batch."""
        embeddings: Any = model.tokens.transformer.embeddings
        words_VD = embeddings.word_embeddings.weight
        texts, device = masked.texts, model.device
        tokens_T = torch.from_numpy(texts.tokens).to(device)
        is_masked_T = torch.from_numpy(masked.is_masked).to(device)
        with model.autocast():
            hidden_TD = model.tokens(TokenizedTexts(masked.seen, texts.lengths))
            encoder = self.head(hidden_TD[is_masked_T], words_VD, tokens_T[is_masked_T])
            sentence_ND = pool(hidden_TD, torch.from_numpy(texts.lengths), model.folder.pooling)
            decoded_CD, tokens_C = self._decode(model, masked, sentence_ND)
            decoder = self.head(decoded_CD, words_VD, tokens_C)
        return Sums(encoder, decoder)

    def _decode(
        self, model: EmbeddingModel, masked: MaskedTexts, sentence_ND: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the decoder's vectors at all content tokens, and these tokens."""
        embeddings: Any = model.tokens.transformer.embeddings
        ids, _ = masked.texts.padded(model.tokens.padding)
        is_content, _ = TokenizedTexts(
            masked.is_content.astype(np.int64), masked.texts.lengths
        ).padded(0)
        ids_NL, content_NL = (torch.from_numpy(x).to(model.device) for x in (ids, is_content))
        first = first_position(model.tokens.config)
        positions_1L = torch.arange(first, first + ids.shape[1], device=model.device)[None]
        embedded_NLD = embeddings(input_ids=ids_NL, position_ids=positions_1L)
        position_1QD = embeddings.position_embeddings(positions_1L[:, 1:])
        visible_NQL = torch.from_numpy(masked.visibility()).to(model.device)
        decoded_NQD = self.decoder(sentence_ND, position_1QD, embedded_NLD, visible_NQL)
        at_NQ = content_NL[:, 1:].bool()
        return decoded_NQD[at_NQ], ids_NL[:, 1:][at_NQ]


class EnhancedDecoder(nn.Module):
    """One transformer layer whose queries know a position and the sentence, and no token.

    Section 3.3: queries H1 = sentence embedding + position, keys and values H2 = [sentence
    embedding; token embeddings with their positions], and each position has a row of the mask of
    its own. The first position stands for no token, so it is no query.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers.activations import ACT2FN

        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.num_heads = config.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.output_norm = nn.LayerNorm(width, eps=eps)
        self.inner, self.outer = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation = ACT2FN[config.hidden_act]
        self.outer_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, sentence_ND: Tensor, position_1QD: Tensor, embedded_NLD: Tensor, visible_NQL: Tensor
    ) -> Tensor:
        """Return a vector for every position but the first, N x Q x D."""
        query_NQD = position_1QD + sentence_ND[:, None]
        seen_NLD = torch.cat([sentence_ND[:, None].to(embedded_NLD), embedded_NLD[:, 1:]], dim=1)
        query_NHQE, key_NHLE, value_NHLE = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in (
                (self.query, query_NQD), (self.key, seen_NLD), (self.value, seen_NLD)
            )
        )  # fmt: skip
        # Probabilities are not dropped, as in the encoder (mining/attention.py).
        found_NHQE = scaled_dot_product_attention(
            query_NHQE, key_NHLE, value_NHLE, attn_mask=visible_NQL[:, None]
        )
        attended_NQD = self.dropout(self.output(found_NHQE.transpose(1, 2).flatten(2)))
        hidden_NQD = self.output_norm(query_NQD + attended_NQD)
        changed_NQD = self.dropout(self.outer(self.activation(self.inner(hidden_NQD))))
        decoded_NQD: Tensor = self.outer_norm(hidden_NQD + changed_NQD)
        return decoded_NQD


def check_model(folder: ModelFolder) -> None:
    """Raise where RetroMAE cannot train the model of a folder."""
    kind = folder.config.get("model_type")
    positions = folder.config.get("position_embedding_type", "absolute")
    if kind not in ARCHITECTURES or positions != "absolute":
        raise ValueError(
            f"{folder.path} is a {kind} with {positions} positions; RetroMAE pre-trains encoders "
            f"with absolute positions: {', '.join(ARCHITECTURES)}"
        )
    heads = [head.kind for head in folder.heads if head.kind != "Normalize"]
    if heads or len(folder.pooling) != 1:
        raise ValueError(
            f"{folder.path} has pooling {'+'.join(folder.pooling)} and heads "
            f"{', '.join(heads) or 'none'}; the decoder takes one pooled vector as wide as the "
            "layers: pre-train the plain encoder, and add heads in training"
        )
