"""What can be wrong with a source: one bad file stops a job, one bad row does not."""


class SourceFileError(ValueError):
    """A source file cannot be read as a whole; nothing of it may be committed."""

    def __init__(self, path: object, what: str, todo: str, row: int | None = None) -> None:
        # Plain arguments, so that the error survives the way back from a worker process.
        super().__init__(str(path), what, todo, row)
        self.path, self.what, self.todo, self.row = str(path), what, todo, row

    def __str__(self) -> str:
        reached = "" if self.row is None else f" (reached row {self.row:,})"
        return f"{self.path}: {self.what}{reached}; {self.todo}"
