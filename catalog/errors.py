"""The errors that a caller of the catalog may act on; everything else is a ValueError."""


class CatalogError(Exception):
    """The catalog cannot do what was asked; the message says what to do instead."""


class CatalogMissingError(CatalogError):
    """There is no catalog at the given place."""


class CatalogTooNewError(CatalogError):
    """The catalog was written by a newer Lode than this one."""


class JobBusyError(CatalogError):
    """Another process is running the same job right now."""


class TasksPendingError(CatalogError):
    """A cluster has the job's tasks, and nobody waits for them: the same command goes on."""


class PolicyError(CatalogError):
    """A policy has a condition that cannot be evaluated; nothing was changed."""


class ReadOnlyError(CatalogError):
    """A statement that would change the catalog was given to a reader."""
