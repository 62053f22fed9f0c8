"""Bounds of numbers in settings, and what is said of a number beyond them."""


def check_at_least_one(settings: object, *names: str) -> None:
    """Raise ValueError where one of the named settings is below 1."""
    for name in names:
        value = getattr(settings, name)
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")


def check_if_set(settings: object, *names: str) -> None:
    """Raise ValueError where one of the named settings is not None, and below 1."""
    check_at_least_one(settings, *(n for n in names if getattr(settings, n) is not None))
