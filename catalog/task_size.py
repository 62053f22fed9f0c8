"""What a task asks of a cluster, whichever cluster it is."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TaskSize:
    """The size of a task and how many run at a time; 0 leaves it to the cluster."""

    cpus_per_task: int = 1
    memory_mb_per_task: int = 0
    gpus_per_task: int = 0
    max_tasks: int = 100  # at a time
    poll_s: float = 5.0  # between two looks at what is done

    def __post_init__(self) -> None:
        for name in ("memory_mb_per_task", "gpus_per_task"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"[executor] {name} is {getattr(self, name)}; it must be 0 or more"
                )
        for name in ("cpus_per_task", "max_tasks", "poll_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"[executor] {name} is {getattr(self, name)}; more than 0")
