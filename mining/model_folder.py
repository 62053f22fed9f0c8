"""A model's folder as it was published: what it says about tokens, pooling, heads and prompts.

Both layouts of sentence-transformers are read (older releases name classes and pooling settings
differently), and plain Hugging Face folders, which do not say how token vectors become one. What a
folder asks for and this encoder does not do is refused, never ignored. No torch is needed here.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from catalog.expressions import unknown_name
from mining.model_files import digest_files, find_folder, read_json, short_name

POOLINGS: Final = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_LEGACY_POOLINGS: Final = {  # in the order in which their vectors are joined
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
HEADS: Final = ("Dense", "LayerNorm", "Normalize")
MODULES: Final = ("Transformer", "Pooling", "Dropout", *HEADS)
# Settings of the Transformer module that are honoured, or that change no vector.
_TRANSFORMER_SETTINGS: Final = {
    "max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name",
    "model_args", "model_kwargs", "tokenizer_args", "config_args", "config_kwargs", "unpad_inputs",
}  # fmt: skip
_TOKENIZERS: Final = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model",
    "tokenizer.model",
)  # fmt: skip
# Beyond this a tokenizer's own limit only says that it has none.
_NO_LIMIT_TOKENS: Final = 1 << 20


@dataclass(frozen=True)
class Head:
    """A module after the pooling, and the folder with its weights."""

    kind: str  # one of HEADS
    folder: Path
    settings: dict[str, Any]


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
        """Return the text that the model puts before a query or a passage."""
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
    modules = _read_modules(path)
    transformer_path = path / modules[0]["path"]
    config = _read_config(path, transformer_path)
    settings = _read_transformer_settings(path, transformer_path)
    modes, includes_prompt = _read_pooling(path, modules, pooling)
    heads = tuple(_read_head(path, module) for module in modules if module["type"] in HEADS)
    width = _check_widths(path, config, modes, heads)
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
        pooling=modes,
        includes_prompt=includes_prompt,
        heads=heads,
        prompts=prompts,
        default_prompt=prompts[default] if default else "",
        normalizes=general.get("similarity_fn_name") not in ("dot", "dot_score"),
        width=int(general.get("truncate_dim") or width),
        revision=digest_files(path, [transformer_path, *(head.folder for head in heads)]),
    )


def _read_modules(path: Path) -> list[dict[str, Any]]:
    """Return the modules in order, each with the short name of its class."""
    if not (path / "modules.json").exists():
        return [{"type": "Transformer", "path": ""}]
    modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
    short = [{"type": m["type"].rsplit(".", 1)[-1], "path": m["path"]} for m in modules]
    for module, original in zip(short, modules, strict=True):
        if module["type"] not in MODULES or "sentence_transformers." not in original["type"]:
            raise ValueError(
                f"model folder {path} has a module {original['type']}, which this encoder does not "
                f"know; it knows {', '.join(MODULES)}"
            )
        if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:
            raise ValueError(f"model folder {path}: module path {module['path']!r} leads out of it")
    kinds = [module["type"] for module in short]
    if kinds[:1] != ["Transformer"] or kinds.count("Transformer") > 1 or kinds[1:2] != ["Pooling"]:
        raise ValueError(
            f"model folder {path} has the modules {', '.join(kinds)}; an encoder begins with one "
            "Transformer and one Pooling"
        )
    return short


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
        key for key, value in settings.items() if key not in _TRANSFORMER_SETTINGS and value
    )
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


def _read_pooling(
    path: Path, modules: list[dict[str, Any]], given: str | None
) -> tuple[tuple[str, ...], bool]:
    if given is not None and given not in POOLINGS:
        raise ValueError(unknown_name("pooling", given, POOLINGS))
    folder = next((m["path"] for m in modules if m["type"] == "Pooling"), "1_Pooling")
    settings = read_json(path / folder / "config.json")
    if not settings:
        if given is None:
            raise ValueError(
                f"model folder {path} does not say how token vectors become one (it has no "
                f"{folder}/config.json); give --pooling: mean for m3e and text2vec, cls for bge; "
                f"known are {', '.join(POOLINGS)}"
            )
        return (given,), True
    if "pooling_mode" in settings:
        mode = settings["pooling_mode"]
        modes = (mode,) if isinstance(mode, str) else tuple(mode)
    else:
        modes = tuple(mode for key, mode in _LEGACY_POOLINGS.items() if settings.get(key))
    modes = modes or ("mean",)
    for mode in modes:
        if mode not in POOLINGS:
            raise ValueError(f"{path / folder}: {unknown_name('pooling', mode, POOLINGS)}")
    if given is not None and (given,) != modes:
        raise ValueError(
            f"model folder {path} was published with pooling {'+'.join(modes)}; --pooling {given} "
            "would make other vectors: leave it out"
        )
    return modes, bool(settings.get("include_prompt", True))


def _read_head(path: Path, module: dict[str, Any]) -> Head:
    folder = path / module["path"]
    settings = read_json(folder / "config.json")
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, "sentence_embedding"):
            raise ValueError(f"{folder}: {key} is {settings[key]!r}; it must be sentence_embedding")
    return Head(module["type"], folder, settings)


def _check_widths(
    path: Path, config: dict[str, Any], modes: tuple[str, ...], heads: tuple[Head, ...]
) -> int:
    """Follow the width of a vector through the modules; raise where two do not fit together."""
    hidden = config.get("hidden_size") or config.get("d_model") or config.get("dim")
    if not isinstance(hidden, int):
        raise ValueError(f"model folder {path}: config.json names no hidden_size")
    width = hidden * len(modes)
    for head in heads:
        expected = {"Dense": "in_features", "LayerNorm": "dimension"}.get(head.kind)
        if expected and head.settings.get(expected) != width:
            raise ValueError(
                f"{head.folder}: {expected} is {head.settings.get(expected)}, but the vectors that "
                f"reach it are {width} wide; the folder mixes modules of different models"
            )
        if head.kind == "Dense":
            width = int(head.settings["out_features"])
    return width


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
