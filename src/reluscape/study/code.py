"""The code that a study's records stand for."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import CodeType
from typing import Any

from reluscape import __version__
from reluscape.errors import InputError
from reluscape.study.trial import Experiment

#: Folders of installed packages.
INSTALLED = ("site-packages", "dist-packages")


def code_version(function: Experiment) -> str:
    """Hash of the code behind a function.

    That is the function's own file, or its whole package; and every module or package in the same
    folder that this imports by an `import` statement, or that one of these imports. Not in it are
    installed packages, whose versions each trial records, modules in other folders, and what is
    imported by a computed name. A function without a file stands for its own text alone.
    """
    origins = _origins(function)
    sources = _sources(origins) if origins else [_text_of(function)]
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(source).digest() for source in sources))
    return f"{__version__}+{digest.hexdigest()[:16]}"


def _origins(function: Experiment) -> list[Path]:
    """The file of a function's module, or the folders of its package; none without a file."""
    package = function.__module__.partition(".")[0]
    found = importlib.util.find_spec(package) if package not in ("", "__main__") else None
    if found is not None and found.submodule_search_locations:
        return [Path(folder) for folder in found.submodule_search_locations]
    file = getattr(sys.modules.get(function.__module__), "__file__", None)
    return [Path(file)] if file is not None and Path(file).is_file() else []


def _sources(origins: list[Path]) -> list[bytes]:
    """The texts of a module or package and of what it imports from beside itself."""
    beside = _modules(origins[0].parent)
    for origin in origins:
        beside.pop(origin.stem, None)
    sources, queue = [], [origins]
    for paths in queue:  # grows by what is imported
        texts = [file.read_bytes() for file in _files(paths)]
        sources += texts
        if beside:
            names = sorted(set().union(*map(_imported, texts)) & set(beside))
            queue += [[beside.pop(name)] for name in names]
    return sources


def _modules(folder: Path) -> dict[str, Path]:
    """Modules and packages in a folder, by name; none among installed packages."""
    if folder.name in INSTALLED:
        return {}
    return {path.stem: path for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}


def _files(paths: list[Path]) -> list[Path]:
    """Modules, and all modules of packages."""
    return sorted(
        file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])
    )


def _imported(source: bytes) -> set[str]:
    """First names of the modules that a text imports, in functions too; none if it is no Python."""
    try:
        statements = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return set()
    names = [alias.name for s in statements if isinstance(s, ast.Import) for alias in s.names]
    names += [str(s.module) for s in statements if isinstance(s, ast.ImportFrom) and not s.level]
    return {name.partition(".")[0] for name in names}


def load_function(name: str) -> Experiment:
    """Import `module:name`.

    Raises:
        InputError: No such module or function, or a module that raises.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute or module == "__main__" or "<locals>" in attribute:
        raise InputError(
            f"expected an experiment as module:function that can be imported; received {name!r}"
        )
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # the module may raise anything
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"expected an experiment as module:function; {name!r}: {why}") from error
    if not callable(found):
        raise InputError(f"expected an experiment as module:function; {name!r} is no function")
    function: Experiment = found
    return function


def name_of(function: Experiment) -> str:
    """`module:qualified.name` of a function.

    Raises:
        InputError: A `functools.partial`, closure, method or lambda: two of them with different bound
            values would have one name, and pass for the same experiment.
    """
    name = getattr(function, "__qualname__", "")
    local = "<locals>" in name and getattr(function, "__defaults__", None)
    binds = getattr(function, "__closure__", None) or getattr(function, "__self__", None) or local
    if not name or binds or name.endswith("<lambda>"):
        kind = type(function).__name__ if not name else f"lambda, closure or method {name!r}"
        raise InputError(
            f"expected a plain function; received a {kind}, whose bound values nothing would record: put"
            " them into the parameters of a function with a name"
        )
    return f"{function.__module__}:{function.__qualname__}"


def _text_of(function: Experiment) -> bytes:
    """Source of a function defined in a session, or its byte code."""
    try:
        return inspect.getsource(function).encode()
    except (OSError, TypeError):
        return _code_of(function.__code__).encode()


def _code_of(code: CodeType) -> str:
    """Byte code with names and constants, those of inner functions included; no addresses."""
    inner = [_code_of(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return repr((code.co_code.hex(), code.co_names, inner))
