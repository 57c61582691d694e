"""How compiled functions are compiled: cached on disk, with or without counting references."""

from __future__ import annotations

from functools import partial
from typing import Any

from numba import njit

#: Compiles a function that makes no arrays, or lets them be made by others that are `counted`. It counts
#: no references: a count is an atomic operation, and two for every array of every call were a sixth of
#: the time of small pivots. What it returns must not be an array.
bare: Any = partial(njit, cache=True, _nrt=False)
#: The same, for a function that threads call side by side.
unlocked: Any = partial(njit, cache=True, _nrt=False, nogil=True)
#: Compiles a function that makes arrays, or calls what may: products of matrices, expressions of arrays.
counted: Any = partial(njit, cache=True, _nrt=True)
