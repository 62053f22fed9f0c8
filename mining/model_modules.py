"""The modules of a model's folder: their order, the pooling, what comes after it, the widths.

Both layouts of sentence-transformers are read; older releases name classes and pooling settings
differently. A plain Hugging Face folder has a transformer and nothing else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from catalog.expressions import unknown_name
from mining.model_files import load_json, read_json

POOLINGS: Final = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
POOLING_KEYS: Final = {  # in the order in which their vectors are joined
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
HEADS: Final = ("Dense", "LayerNorm", "Normalize")
MODULES: Final = ("Transformer", "Pooling", "Dropout", *HEADS)


@dataclass(frozen=True)
class Pooling:
    """How token vectors become one, and the folder that says so."""

    modes: tuple[str, ...]  # each one of POOLINGS; their results are joined
    folder: Path
    settings: dict[str, Any]

    @property
    def includes_prompt(self) -> bool:
        """The tokens of the prompt count."""
        return bool(self.settings.get("include_prompt", True))


@dataclass(frozen=True)
class Head:
    """A module after the pooling, and the folder with its weights."""

    kind: str  # one of HEADS
    folder: Path
    settings: dict[str, Any]


def read_modules(path: Path) -> list[dict[str, Any]]:
    """Return the modules in order, each with the short name of its class."""
    if not (path / "modules.json").exists():
        return [{"type": "Transformer", "path": ""}]
    modules = load_json(path / "modules.json")
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
            f"model folder {path} has the modules {', '.join(kinds) or 'none'}; an encoder begins "
            "with one Transformer and one Pooling"
        )
    return short


def read_pooling(path: Path, modules: list[dict[str, Any]], given: str | None) -> Pooling:
    """Return how token vectors become one: as published, or as ``given`` where nothing is."""
    if given is not None and given not in POOLINGS:
        raise ValueError(unknown_name("pooling", given, POOLINGS))
    name = next((m["path"] for m in modules if m["type"] == "Pooling"), "1_Pooling")
    folder = path / name
    settings = read_json(folder / "config.json")
    if not settings:
        if given is None:
            raise ValueError(
                f"model folder {path} does not say how token vectors become one (it has no "
                f"{name}/config.json); give --pooling: mean for m3e and text2vec, cls for bge; "
                f"known are {', '.join(POOLINGS)}"
            )
        return Pooling((given,), folder, settings)
    modes = _published_modes(settings)
    for mode in modes:
        if mode not in POOLINGS:
            raise ValueError(f"{folder}: {unknown_name('pooling', mode, POOLINGS)}")
    if given is not None and (given,) != modes:
        raise ValueError(
            f"model folder {path} was published with pooling {'+'.join(modes)}; --pooling {given} "
            "would make other vectors: leave it out"
        )
    return Pooling(modes, folder, settings)


def _published_modes(settings: dict[str, Any]) -> tuple[str, ...]:
    """Read the modes of either layout; a pooling that names none is the mean."""
    mode = settings.get("pooling_mode")
    if isinstance(mode, str):
        return (mode,)
    legacy = [mode for key, mode in POOLING_KEYS.items() if settings.get(key)]
    return tuple(mode or legacy) or ("mean",)


def read_head(path: Path, module: dict[str, Any]) -> Head:
    """Read the settings of a module after the pooling."""
    folder = path / module["path"]
    settings = read_json(folder / "config.json")
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, "sentence_embedding"):
            raise ValueError(f"{folder}: {key} is {settings[key]!r}; it must be sentence_embedding")
    return Head(module["type"], folder, settings)


def check_widths(
    path: Path, config: dict[str, Any], pooling: Pooling, heads: tuple[Head, ...]
) -> int:
    """Follow the width of a vector through the modules; raise where two do not fit together."""
    hidden = config.get("hidden_size") or config.get("d_model") or config.get("dim")
    if not isinstance(hidden, int):
        raise ValueError(f"model folder {path}: config.json names no hidden_size")
    for key in ("word_embedding_dimension", "embedding_dimension"):
        _check_width(pooling.folder, key, pooling.settings.get(key, hidden), hidden)
    width = hidden * len(pooling.modes)
    for head in heads:
        expected = {"Dense": "in_features", "LayerNorm": "dimension"}.get(head.kind)
        if expected:
            _check_width(head.folder, expected, head.settings.get(expected), width)
        if head.kind == "Dense":
            width = int(head.settings["out_features"])
    return width


def _check_width(folder: Path, key: str, found: object, width: int) -> None:
    if found != width:
        raise ValueError(
            f"{folder}: {key} is {found}, but the vectors that reach it are {width} wide; the "
            "folder mixes modules of different models"
        )
