"""The trainer: what we learn."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.fine_tuning import fine_tune

__all__ = ["fine_tune"]


def __getattr__(name: str) -> Any:
    """Import torch when training is asked for, not with the package."""
    if name != "fine_tune":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainer.fine_tuning import fine_tune

    return fine_tune
