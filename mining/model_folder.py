"""A model's folder as it was published: what it says about tokens, vectors and prompts.

What a folder asks for and this encoder does not do is refused, never ignored. No torch is needed
here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from catalog.expressions import unknown_name
from mining.model_files import digest_files, find_folder, read_json, short_name
from mining.model_modules import HEADS, Head, check_widths, read_head, read_modules, read_pooling

# Settings of the Transformer module that are honored, or that change no vector.
_TRANSFORMER_SETTINGS: Final = {
    "max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name",
    "unpad_inputs",
}  # fmt: skip
# What it hands on to transformers. Only the user decides on trust, and dtype and speed are ours.
_HANDED_ON: Final = (
    "model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args",
    "config_kwargs",
)  # fmt: skip
_WITHOUT_EFFECT: Final = {
    "trust_remote_code", "dtype", "torch_dtype", "attn_implementation", "padding_side", "use_fast",
}  # fmt: skip
_TOKENIZERS: Final = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model",
    "tokenizer.model",
)  # fmt: skip
# Beyond this a tokenizer's own limit only says that it has none.
_NO_LIMIT_TOKENS: Final = 1 << 20


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says; ``max_tokens`` counts the special tokens too."""

    name: str
    path: Path
    transformer_path: Path
    config: dict[str, Any]
    max_tokens: int
    lowers: bool
    pooling: tuple[str, ...]
    includes_prompt: bool
    heads: tuple[Head, ...]
    prompts: dict[str, str]
    default_prompt: str
    normalizes: bool  # vectors get length 1, unless the model is made for the inner product
    width: int
    revision: str

    def prompt(self, side: str) -> str:
        """Return the text that the model puts before a query or a passage.

        sentence-transformers names an empty ``document`` in every folder that it saves: a
        ``passage`` beside it is what was published.
        """
        names = ("query",) if side == "query" else ("document", "passage", "corpus")
        known = [self.prompts[name] for name in names if name in self.prompts]
        if not known:
            return self.default_prompt
        return next((prompt for prompt in known if prompt), "")


def read_model_folder(
    model: str, name: str | None = None, pooling: str | None = None, max_tokens: int | None = None
) -> ModelFolder:
    """Read a model by path or by its name in the Hugging Face cache or hub.

    ``pooling`` is for a folder that names none; ``max_tokens`` replaces the published limit.
    """
    path = find_folder(model)
    modules = read_modules(path)
    transformer_path = path / modules[0]["path"]
    config = _read_config(path, transformer_path)
    settings = _read_transformer_settings(path, transformer_path)
    pooled = read_pooling(path, modules, pooling)
    heads = tuple(read_head(path, module) for module in modules if module["type"] in HEADS)
    width = check_widths(path, config, pooled, heads)
    general = read_json(path / "config_sentence_transformers.json")
    prompts = {key: value or "" for key, value in (general.get("prompts") or {}).items()}
    default = general.get("default_prompt_name")
    _check_general(path, general, prompts, width)
    return ModelFolder(
        name=name or short_name(path, model),
        path=path,
        transformer_path=transformer_path,
        config=config,
        max_tokens=_limit_tokens(path, transformer_path, config, settings, max_tokens),
        lowers=bool(settings.get("do_lower_case", False)),
        pooling=pooled.modes,
        includes_prompt=pooled.includes_prompt,
        heads=heads,
        prompts=prompts,
        default_prompt=prompts[default] if default else "",
        normalizes=general.get("similarity_fn_name") not in ("dot", "dot_score"),
        width=int(general.get("truncate_dim") or width),
        revision=digest_files(
            path, [transformer_path, pooled.folder, *(head.folder for head in heads)]
        ),
    )


def _read_config(path: Path, transformer_path: Path) -> dict[str, Any]:
    config = read_json(transformer_path / "config.json")
    if not config:
        hint = ""
        if (transformer_path / "adapter_config.json").exists():
            hint = "; it is an adapter: merge it into its base model first"
        raise ValueError(f"model folder {path} has no config.json of a transformer{hint}")
    if not any((transformer_path / name).exists() for name in _TOKENIZERS):
        raise ValueError(
            f"model folder {path} has no tokenizer (none of {', '.join(_TOKENIZERS)} is in "
            f"{transformer_path}); copy the tokenizer that it was trained with into it"
        )
    return config


def _read_transformer_settings(path: Path, transformer_path: Path) -> dict[str, Any]:
    files = sorted(transformer_path.glob("sentence_*_config.json"))
    settings = read_json(files[0]) if files else {}
    unknown = sorted(
        key
        for key, value in settings.items()
        if value and key not in _TRANSFORMER_SETTINGS and key not in _HANDED_ON
    )
    for name in _HANDED_ON:
        given = settings.get(name) or {}
        unknown += [f"{name}.{key}" for key in sorted(given) if key not in _WITHOUT_EFFECT]
    if unknown:
        raise ValueError(
            f"{files[0]} sets {', '.join(unknown)}, which this encoder does not know; it knows "
            f"{', '.join(sorted(_TRANSFORMER_SETTINGS))}"
        )
    text = (settings.get("modality_config") or {}).get("text", {})
    output = text.get("method_output_name", "last_hidden_state")
    task = settings.get("transformer_task", "feature-extraction")
    if task != "feature-extraction" or output not in ("last_hidden_state", ["last_hidden_state"]):
        raise ValueError(
            f"model folder {path} is for the task {task} with output {output}; an encoder is for "
            "feature-extraction with last_hidden_state"
        )
    return settings


def _check_general(
    path: Path, general: dict[str, Any], prompts: dict[str, str], width: int
) -> None:
    kind = general.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ValueError(
            f"model folder {path} is a {kind}, not a SentenceTransformer: one vector for a text"
        )
    default = general.get("default_prompt_name")
    if default and default not in prompts:
        raise ValueError(f"model folder {path}: {unknown_name('prompt', default, prompts)}")
    if (general.get("truncate_dim") or 0) > width:
        raise ValueError(
            f"model folder {path}: truncate_dim is {general['truncate_dim']}, but its vectors are "
            f"{width} wide"
        )


def _limit_tokens(
    path: Path,
    transformer_path: Path,
    config: dict[str, Any],
    settings: dict[str, Any],
    wanted: int | None,
) -> int:
    positions = _count_positions(config)
    own = read_json(transformer_path / "tokenizer_config.json").get("model_max_length")
    limits = [int(n) for n in (settings.get("max_seq_length"), positions) if n]
    if not settings.get("max_seq_length") and own and own < _NO_LIMIT_TOKENS:
        limits.append(int(own))
    if not limits and wanted is None:
        raise ValueError(f"model folder {path} names no greatest length; give --max-tokens")
    if wanted is None:
        return min(limits)
    if wanted < 1 or (positions and wanted > positions):
        raise ValueError(
            f"max_tokens is {wanted}; the model in {path} takes 1 to {positions or 'any'} tokens"
        )
    return wanted


def _count_positions(config: dict[str, Any]) -> int | None:
    """Return how many tokens the model has positions for; RoBERTa's begin after the padding's."""
    positions = config.get("max_position_embeddings")
    if not positions or positions < 1:
        return None
    return int(positions) - first_position(config)


def first_position(config: dict[str, Any]) -> int:
    """Return the position of a text's first token."""
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert"):
        padding = config.get("pad_token_id")
        return (1 if padding is None else int(padding)) + 1
    return 0
