"""Objects named on the command line as ``module:factory``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from reluscape.errors import InputError, ReluscapeError

__all__ = ["build", "is_factory_name"]


def is_factory_name(source: str) -> bool:
    """Whether ``source`` has the form ``package.module:factory``."""
    module, colon, attribute = source.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def build(source: str) -> object:
    """Import ``module:factory`` and call the factory without arguments.

    The current folder is importable while this runs. An object that is not callable is returned
    as it is, and so is a callable that is an instance of a class with a ``state_dict`` (a ready
    PyTorch module).

    Args:
        source: ``package.module:factory``.

    Raises:
        InputError: the name has another form, the module or attribute does not exist, or the
            imported code or the factory raised.
    """
    if not is_factory_name(source):
        raise InputError(f"expected module:factory (such as mine.models:small), got {source!r}")
    module_name, _, attribute = source.partition(":")
    path_before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        is_ready = hasattr(found, "state_dict") and not isinstance(found, type)
        return found() if callable(found) and not is_ready else found
    except ReluscapeError:
        raise
    # The code behind the name is the user's and may raise anything; each failure is one line.
    except (Exception, SystemExit) as error:
        raise InputError(f"{source} could not be built: {_one_line(error)}") from error
    finally:
        sys.path[:] = path_before


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
