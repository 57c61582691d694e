"""How compiled functions are compiled: cached on disk, with or without counting references."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from numba import njit
from numba.core.dispatcher import Dispatcher

#: Files that compiled functions are made of: their own, and those of the compiled ones that they call.
_FILES: dict[Dispatcher, frozenset[str]] = {}


def _compiled(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function when it is first called, and keep it on disk until one of its files changes.

    Numba looks at the function's own file alone: what that calls would stay as it was, and arrays that
    are laid out in another way by now would be read as before.
    """
    if function is None:
        return partial(_compiled, **options)
    made: Any = njit(cache=True, **options)(function)
    if isinstance(made, Dispatcher):  # the function itself, where compiling is switched off
        called = [one for one in function.__globals__.values() if isinstance(one, Dispatcher)]
        own = frozenset({function.__code__.co_filename})
        _FILES[made] = own.union(*(_FILES.get(one, frozenset()) for one in called))
        stamps = tuple(sorted((file, os.stat(file).st_mtime_ns) for file in _FILES[made]))
        cache: Any = made._cache  # type: ignore[attr-defined]
        cache._cache_file._source_stamp = stamps
    return made


#: Compiles a function that makes no arrays, or lets them be made by others that are `counted`. It counts
#: no references: a count is an atomic operation, and two for every array of every call were a sixth of
#: the time of small pivots. What it returns must not be an array.
bare: Any = partial(_compiled, _nrt=False)
#: The same, for a function that threads call side by side.
unlocked: Any = partial(_compiled, _nrt=False, nogil=True)
#: Compiles a function that makes arrays, or calls what may: products of matrices, expressions of arrays.
counted: Any = partial(_compiled, _nrt=True)
