"""Trained models as folders that sentence-transformers, FlagEmbedding and Lode's encoder load."""

from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import nn

from catalog.records import write_json
from mining.model_modules import POOLING_KEYS
from mining.pooling import Dense
from trainer.model import EmbeddingModel

_CLASSES: Final = "sentence_transformers.models."


def save_model(model: EmbeddingModel, path: Path, card: str) -> None:
    """Write transformer, tokenizer, pooling, heads, prompts and card; the caller syncs them.

    Prompts are those of queries and documents, and those that tasks had of their own.
    """
    path.mkdir(parents=True, exist_ok=True)
    transformer: Any = model.tokens.transformer
    transformer.config.save_pretrained(path)
    # Weights that share memory, such as tied embeddings, are written as what they are: equal.
    weights = {name: weight.clone() for name, weight in transformer.state_dict().items()}
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    model.tokenizer.save_pretrained(path)
    write_json(path / "sentence_bert_config.json", {
        "max_seq_length": model.folder.max_tokens, "do_lower_case": model.folder.lowers,
    })  # fmt: skip
    heads = list(model.heads.children())
    modules = ["Transformer", "Pooling", *(_kind(head) for head in heads)]
    if model.folder.normalizes and modules[-1] != "Normalize":
        modules.append("Normalize")
    folders = ["", *(f"{place}_{kind}" for place, kind in enumerate(modules[1:], start=1))]
    write_json(path / "modules.json", [
        {"idx": place, "name": str(place), "path": folder, "type": _CLASSES + kind}
        for place, (kind, folder) in enumerate(zip(modules, folders, strict=True))
    ])  # fmt: skip
    _save_pooling(model, path / folders[1])
    for head, folder in zip(heads, folders[2:], strict=False):
        _save_head(head, path / folder)
    for folder in folders[2:]:
        (path / folder).mkdir(exist_ok=True)
    write_json(path / "config_sentence_transformers.json", _general(model))
    (path / "README.md").write_text(card, encoding="utf-8")


def _kind(head: nn.Module) -> str:
    kinds = {Dense: "Dense", nn.LayerNorm: "LayerNorm"}
    return kinds.get(type(head), "Normalize")


def _save_pooling(model: EmbeddingModel, folder: Path) -> None:
    transformer: Any = model.tokens.transformer
    width, modes = transformer.config.hidden_size, model.folder.pooling
    switches = {key: mode in modes for key, mode in POOLING_KEYS.items()}
    if tuple(mode for mode in POOLING_KEYS.values() if mode in modes) == modes:
        content = {"word_embedding_dimension": width, **switches}
    else:  # switches cannot say that vectors are joined in an order of the model's own
        content = {"embedding_dimension": width, "pooling_mode": list(modes)}
    write_json(folder / "config.json", {**content, "include_prompt": True})


def _save_head(head: nn.Module, folder: Path) -> None:
    if isinstance(head, Dense):
        write_json(folder / "config.json", head.settings)
    elif isinstance(head, nn.LayerNorm):
        write_json(folder / "config.json", {"dimension": head.normalized_shape[0]})
    else:
        return
    prefix = "norm." if isinstance(head, nn.LayerNorm) else ""
    weights = {prefix + name: weight.contiguous() for name, weight in head.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def _general(model: EmbeddingModel) -> dict[str, Any]:
    prompts = {"query": model.prompt("query"), "document": model.prompt("passage")}
    prompts |= model.task_prompts
    return {
        "__version__": {"pytorch": torch.__version__},
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if model.folder.normalizes else "dot",
    }
