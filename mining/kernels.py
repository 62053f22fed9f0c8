"""Compiled functions of arrays: one decorator for mining and training."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def kernel(function: _Kernel) -> _Kernel:
    """Compile once per machine, without the interpreter lock and without fast-math.

    The order of operations is part of a result, and integers wrap around, as hashes mean them to.
    """
    return cast(_Kernel, numba.njit(cache=True, nogil=True)(function))
