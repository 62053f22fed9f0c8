"""Numbers as people read them: thousands apart, shares with as many digits as they deserve."""

from typing import Final

# Thin no-break spaces would be finer, but copy badly; a comma is what SQL tools show as well.
SMALLEST_SHARE: Final = 0.0001


def count(number: float) -> str:
    """Write a count with its thousands apart."""
    return f"{number:,.0f}"


def short(number: float) -> str:
    """Write a number in few characters, for axes: 0.125, 950, 9.6k, 12k, 1.6M, 2.5G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            scaled = number / size
            return f"{scaled:.0f}{unit}" if abs(scaled) >= 9.95 else f"{scaled:.2g}{unit}"
    return f"{number:.3g}"


def value(number: float) -> str:
    """Write a signal's value: 0.28, 20, 1,500."""
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:,.4g}" if abs(number) < 1000 else f"{number:,.0f}"


def share(part: float, whole: float) -> str:
    """Write a part as a percentage; 0% and 100% are exact, never rounded."""
    if not whole:
        return "–"
    ratio = part / whole
    if ratio in (0.0, 1.0):
        return f"{ratio:.0%}"
    if ratio < SMALLEST_SHARE:
        return "< 0.01%"
    if ratio > 1 - SMALLEST_SHARE:
        return "> 99.99%"
    digits = 2 if ratio < 0.001 or ratio > 0.999 else 1 if ratio < 0.995 else 2
    return f"{100 * ratio:.{digits}f}%"


def plural(number: float, noun: str, plural_noun: str | None = None) -> str:
    """Write a count with its noun."""
    return f"{count(number)} {noun if number == 1 else plural_noun or noun + 's'}"
