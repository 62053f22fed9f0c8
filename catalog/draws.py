"""Draws: random choices that are hashes of what is chosen, so that nothing else can change them."""

import numpy as np
import numpy.typing as npt
import xxhash

Hashes = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def draw(seed: int, purpose: str, *ids: Ids) -> Hashes:
    """Return a uniform 64-bit number for every combination of ids (arrays that broadcast).

    One step of splitmix64 (Steele, Lea and Flood 2014) mixes in each of seed, purpose and ids.
    """
    start = xxhash.xxh3_64_intdigest(f"{seed}:{purpose}")
    state = np.array(start, np.uint64)
    for values in ids:
        state = _mix(state ^ _mix(np.asarray(values, np.int64).view(np.uint64)))
    return state


def _mix(values: Hashes) -> Hashes:
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        mixed = values + _GOLDEN
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return mixed ^ (mixed >> np.uint64(31))
