"""What every kind of run is told: engine, precision, length, and when it logs and saves."""

from typing import Final, Protocol

from catalog.bounds import check_at_least_one
from trainer.engine import OptimizerSettings

ENGINES: Final = ("torch", "deepspeed")
PRECISIONS: Final = ("fastest", "float32", "bfloat16")


class RunSettings(Protocol):
    """The settings that training, pre-training and the training of a reranker share."""

    @property
    def seed(self) -> int:
        """Of all random choices."""

    @property
    def steps(self) -> int | None:
        """How many updates are made; None: as many as ``epochs`` take."""

    @property
    def epochs(self) -> float:
        """How often the rows are gone through."""

    @property
    def engine(self) -> str:
        """One of ENGINES."""

    @property
    def precision(self) -> str:
        """One of PRECISIONS."""

    @property
    def batch_tokens(self) -> int:
        """The tokens of a micro-batch."""

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""

    @property
    def keep_checkpoints(self) -> int:
        """How many checkpoints stay."""

    @property
    def log_every(self) -> int:
        """Steps between reports."""

    @property
    def optimizer(self) -> OptimizerSettings:
        """AdamW's settings."""


def check_run(settings: RunSettings) -> None:
    """Raise ValueError where a setting that all runs share is none that is allowed."""
    for name, allowed in (("engine", ENGINES), ("precision", PRECISIONS)):
        value = getattr(settings, name)
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; allowed are {', '.join(allowed)}")
    check_at_least_one(
        settings, "batch_tokens", "checkpoint_every", "keep_checkpoints", "log_every"
    )
    if settings.epochs <= 0 or (settings.steps is not None and settings.steps < 1):
        raise ValueError(f"epochs is {settings.epochs} and steps {settings.steps}; both above 0")
