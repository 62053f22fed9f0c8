"""From token vectors to one vector a text: pooling, and the modules after it.

Shapes: T tokens of all texts one after another, without padding; N texts; D width.
Definitions are those of sentence-transformers' modules, and compared with them in the tests.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from torch import nn

from mining.model_modules import Head

_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")


def pool(
    hidden_TD: torch.Tensor, lengths_N: torch.Tensor, modes: Sequence[str], prompt_tokens: int = 0
) -> torch.Tensor:
    """Pool each text's token vectors in every mode and join the results, in float32.

    ``prompt_tokens`` at the start of each text are left out. A text without tokens becomes zeros.
    """
    spans = _Spans(hidden_TD, lengths_N, prompt_tokens)
    return torch.cat([_POOLERS[mode](spans) for mode in modes], dim=-1)


class _Spans:
    """Which rows of the token vectors belong to which text."""

    def __init__(self, hidden_TD: torch.Tensor, lengths_N: torch.Tensor, skipped: int) -> None:
        device = hidden_TD.device
        self.lengths_N = lengths_N.to(device)
        self.hidden_TD = hidden_TD
        ends_N = torch.cumsum(self.lengths_N, 0)
        self.starts_N = ends_N - self.lengths_N
        self.lasts_N = ends_N - 1
        texts_T = torch.repeat_interleave(
            torch.arange(len(lengths_N), device=device), self.lengths_N, output_size=len(hidden_TD)
        )
        places_T = torch.arange(len(hidden_TD), device=device) - self.starts_N[texts_T]
        self.skipped = skipped
        if skipped:
            counted_T = places_T >= skipped
            hidden_TD, texts_T, places_T = (
                hidden_TD[counted_T], texts_T[counted_T], places_T[counted_T],
            )  # fmt: skip
        self.counted_TD = hidden_TD.float()
        self.texts_T = texts_T
        self.places_T = places_T

    def sums(self, values_TD: torch.Tensor) -> torch.Tensor:
        """Add up rows by text."""
        shape = (len(self.lengths_N), *values_TD.shape[1:])
        zeros = torch.zeros(shape, dtype=torch.float32, device=values_TD.device)
        return zeros.index_add_(0, self.texts_T, values_TD)

    def rows(self, rows_N: torch.Tensor) -> torch.Tensor:
        """Take one row a text; zeros for a text without tokens."""
        if not len(self.hidden_TD):
            return self.hidden_TD.new_zeros((len(rows_N), self.hidden_TD.shape[1])).float()
        found_ND = self.hidden_TD[rows_N.clamp(0, len(self.hidden_TD) - 1)].float()
        return found_ND * (self.lengths_N > 0).unsqueeze(1)

    @property
    def counts_N1(self) -> torch.Tensor:
        """How many tokens of each text are counted, at least one."""
        return (self.lengths_N - self.skipped).clamp(min=1).unsqueeze(1).float()


def _cls(spans: _Spans) -> torch.Tensor:
    skipped_N = torch.where(spans.lengths_N > spans.skipped, spans.skipped, 0)
    return spans.rows(spans.starts_N + skipped_N)


def _last_token(spans: _Spans) -> torch.Tensor:
    return spans.rows(spans.lasts_N)


def _mean(spans: _Spans) -> torch.Tensor:
    return spans.sums(spans.counted_TD) / spans.counts_N1


def _mean_sqrt(spans: _Spans) -> torch.Tensor:
    return spans.sums(spans.counted_TD) / spans.counts_N1.sqrt()


def _weighted_mean(spans: _Spans) -> torch.Tensor:
    weights_T1 = (spans.places_T + 1).float().unsqueeze(1)
    return spans.sums(spans.counted_TD * weights_T1) / spans.sums(weights_T1).clamp(min=1e-9)


def _max(spans: _Spans) -> torch.Tensor:
    shape = (len(spans.lengths_N), spans.counted_TD.shape[1])
    lowest = torch.full(shape, -torch.inf, device=spans.counted_TD.device)
    index_TD = spans.texts_T.unsqueeze(1).expand_as(spans.counted_TD)
    found_ND = lowest.scatter_reduce_(0, index_TD, spans.counted_TD, "amax")
    return torch.where(torch.isneginf(found_ND), 0.0, found_ND)


_POOLERS: Final[dict[str, Callable[[_Spans], torch.Tensor]]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}


def load_heads(heads: Sequence[Head]) -> nn.Sequential:
    """Build the modules after the pooling with their weights, in float32: they cost nothing."""
    modules = nn.Sequential(*(_BUILDERS[head.kind](head) for head in heads))
    modules.requires_grad_(False).train(False)
    return modules


class Dense(nn.Module):
    """A linear map with its activation, and a shortcut where the model has one."""

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        super().__init__()
        self.settings = settings
        wide, narrow = settings["in_features"], settings["out_features"]
        self.linear = nn.Linear(wide, narrow, bias=settings.get("bias", True))
        self.activation = _activation(settings, folder)
        self.residual: nn.Module | None = None
        if settings.get("use_residual"):
            self.residual = nn.Linear(wide, narrow, bias=False) if wide != narrow else nn.Identity()

    def forward(self, vectors_ND: torch.Tensor) -> torch.Tensor:
        """Map vectors."""
        mapped_ND: torch.Tensor = self.activation(self.linear(vectors_ND))
        if self.residual is not None:
            mapped_ND = mapped_ND + self.residual(vectors_ND)
        return mapped_ND


class _Normalize(nn.Module):
    """Vectors of length 1."""

    def forward(self, vectors_ND: torch.Tensor) -> torch.Tensor:
        """Divide each vector by its length."""
        return torch.nn.functional.normalize(vectors_ND, dim=-1)


def _build_dense(head: Head) -> nn.Module:
    dense = Dense(head.settings, head.folder)
    _load_weights(dense, head.folder)
    return dense


def _build_norm(head: Head) -> nn.Module:
    norm = nn.LayerNorm(head.settings["dimension"])
    _load_weights(norm, head.folder, prefix="norm.")
    return norm


_BUILDERS: Final[dict[str, Callable[[Head], nn.Module]]] = {
    "Dense": _build_dense,
    "LayerNorm": _build_norm,
    "Normalize": lambda head: _Normalize(),
}


def _activation(settings: dict[str, Any], folder: Path) -> nn.Module:
    name = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    if name is None:
        return nn.Identity()
    found = getattr(nn, name.rsplit(".", 1)[-1], None) if name.startswith("torch.nn.") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(
            f"{folder}: activation_function is {name!r}; it must be a module class of torch.nn, "
            "such as torch.nn.modules.activation.Tanh or torch.nn.modules.linear.Identity"
        )
    return found()


def unsafe_pickle(folder: Path) -> ValueError:
    """Make the error for pickled weights that would run code of their own."""
    return ValueError(
        f"{folder}: the weights are a pickle that is damaged or holds more than tensors, and "
        "reading it would run its code; convert them to safetensors where you trust their source"
    )


def _load_weights(module: nn.Module, folder: Path, prefix: str = "") -> None:
    """Load safetensors, or a pickle of nothing but tensors."""
    file = next((folder / name for name in _WEIGHTS if (folder / name).exists()), None)
    if file is None:
        raise ValueError(f"{folder} has no weights ({' or '.join(_WEIGHTS)})")
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights = load_file(file)
    else:
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            raise unsafe_pickle(folder) from error
    plain = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    try:
        module.load_state_dict(plain)
    except RuntimeError as error:
        raise ValueError(f"{file} does not fit its config.json: {error}") from error
