"""Arrays from ``.npz`` and ``.csv`` files, with one-line errors that say where a file is wrong."""

from __future__ import annotations

import csv
import re
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reluscape.errors import InputError

__all__ = ["RawData", "read_csv", "read_npz"]

_INTEGER = re.compile(r"[+-]?[0-9]+")
_ARRAY_FILES = (b"PK", b"\x93NUMPY")  # how .npz and .npy files begin
_MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
_BROKEN_ARCHIVE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    SyntaxError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    MemoryError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)  # all that numpy and zipfile raise on damaged, encrypted or foreign files


@dataclass(frozen=True, slots=True, eq=False)
class RawData:
    """Arrays as a source holds them, before any check.

    ``x`` has one sample per row; ``y`` one target per row. ``classes`` names the integer labels
    where the source does, ``features`` the columns of ``x``; both may be empty.
    ``first_row`` is the number that messages give to the first sample.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    first_row: int = 0


def check_file(path: Path) -> None:
    """Raise InputError unless ``path`` is a file that can be read."""
    if path.is_dir():
        raise InputError(f"expected a file, got the folder {path}: name a file in it")
    if not path.exists():
        raise InputError(f"{path} does not exist: check the name and the current folder")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def read_npz(path: Path) -> RawData:
    """Read the arrays ``x`` and ``y`` (and ``class_names``, if there) of an ``.npz`` file.

    Pickled object arrays are never loaded.

    Raises:
        InputError: no such file, damaged, pickled, or without these keys.
    """
    check_file(path)
    try:
        with path.open("rb") as file:  # numpy leaves a file that it opened itself open on errors
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(
                    f"{path} holds a single array; expected an .npz with the keys x and y: "
                    "write it with numpy.savez(file, x=x, y=y)"
                )
            _check_keys(path, archive.files)
            names = archive["class_names"] if "class_names" in archive.files else ()
            x, y = archive["x"], archive["y"]
    except InputError:
        raise
    except _BROKEN_ARCHIVE as error:
        raise InputError(_why_broken(path, error)) from error
    return RawData(path.name, x, y, classes=tuple(str(name) for name in np.ravel(names)))


def _check_keys(path: Path, keys: Sequence[str]) -> None:
    missing = [key for key in ("x", "y") if key not in keys]
    if missing:
        raise InputError(
            f"{path} lacks {' and '.join(missing)}: expected the keys x and y, "
            f"found {', '.join(keys) or 'none'}"
        )


def _why_broken(path: Path, error: BaseException) -> str:
    text = " ".join(str(error).split())
    with path.open("rb") as file:
        is_array = file.read(6).startswith(_ARRAY_FILES)
    if not is_array:  # numpy takes every other file for a pickle
        text = "it is no zip archive of arrays"
    elif "pickle" in text:
        return (
            f"{path} holds pickled objects, which are never loaded: "
            "save plain number or text arrays with numpy.savez(file, x=x, y=y)"
        )
    reason = text[:200] or type(error).__name__
    return f"{path} is not a complete .npz file ({reason}): write it again with numpy.savez"


def read_csv(path: Path, target: str | None) -> RawData:
    """Read a table of numbers with one target column.

    The separator is the one of ``, ; tab`` that the first line holds most often. The first line
    is a header if none of its cells is a number, or if its target cell is not a number while all
    cells below are.

    Args:
        path: text in UTF-8.
        target: header name or index (from 0, negative from the end) of the target column; the
            last by default. A target that is not all numbers gives class labels.

    Raises:
        InputError: not a table, an unknown target, or a feature that is not a number.
    """
    check_file(path)
    rows, lines = _read_rows(path)
    width = len(rows[0])
    if width < 2:
        raise InputError(f"{path} has one column; expected features and a target column")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != width:
            raise InputError(
                f"{path} line {line} has {len(row)} cells, the first line {width}: "
                "each line needs the same number"
            )
    column, has_header = _find_target(path, rows, target)
    header = rows[0] if has_header else [f"column {k}" for k in range(width)]
    body, body_lines = (rows[1:], lines[1:]) if has_header else (rows, lines)
    if not body:
        raise InputError(f"{path} holds a header but no samples")
    kept = [k for k in range(width) if k != column]
    x = np.empty((len(body), len(kept)))
    for j, k in enumerate(kept):
        x[:, j] = _numbers([row[k] for row in body], f"{path} column {header[k]!r}", body_lines)
    where = f"{path} column {header[column]!r}"
    y = _target_column([row[column] for row in body], where, body_lines)
    counts = [header[k] for j, k in enumerate(kept) if len(x) > 2 and _counts_rows(x[:, j])]
    notes = tuple(
        f"The column {name!r} counts the rows: an index, not a feature?" for name in counts
    )
    return RawData(path.name, x, y, features=tuple(header[k] for k in kept), notes=notes)


def _counts_rows(column: np.ndarray) -> bool:
    return bool(column[0] in (0, 1) and (np.diff(column) == 1).all())


def _read_rows(path: Path) -> tuple[list[list[str]], list[int]]:
    rows, lines = [], []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            separator = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)
            for row in reader:
                if any(cell.strip() for cell in row):
                    rows.append([cell.strip() for cell in row])
                    lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a UTF-8 .csv table: {error}") from error
    if not rows:
        raise InputError(f"{path} is empty: expected one sample per line")
    return rows, lines


def _find_target(path: Path, rows: list[list[str]], target: str | None) -> tuple[int, bool]:
    """The index of the target column and whether the first row is a header."""
    first, width = rows[0], len(rows[0])
    named_only = not any(_is_number(cell) for cell in first)
    if target is not None and target in first and not _is_number(target):
        return first.index(target), True
    if target is None:
        column = width - 1
    elif _INTEGER.fullmatch(target) and -width <= int(target) < width:
        column = int(target) % width
    else:
        columns = ", ".join(first[:12]) if named_only else f"0 to {width - 1}"
        raise InputError(f"{path} has no target column {target!r}; its columns are {columns}")
    below = [row[column] for row in rows[1:]]
    target_named = not _is_number(first[column]) and all(_is_number(cell) for cell in below)
    return column, bool(named_only or (below and target_named))


def _target_column(cells: list[str], where: str, lines: list[int]) -> np.ndarray:
    """Integers if all cells are, else floats if all cells are numbers, else text."""
    if all(_INTEGER.fullmatch(cell) for cell in cells):
        long = [line for cell, line in zip(cells, lines, strict=True) if len(cell) > 18]
        if long:
            raise InputError(
                f"{where}, line {long[0]}: the integer does not fit 64 bits; "
                "number classes from 0, or write regression targets with a decimal point"
            )
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    if all(_is_number(cell) for cell in cells):
        return np.array([float(cell) for cell in cells])
    for cell, line in zip(cells, lines, strict=True):
        if cell.lower() in _MISSING:
            raise InputError(
                f"{where}, line {line}: the target is missing; fill it or drop the row"
            )
    return np.array(cells, dtype=np.str_)


def _numbers(cells: list[str], where: str, lines: list[int]) -> list[float]:
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        at = next(k for k, cell in enumerate(cells) if not _is_number(cell))
        raise InputError(
            f"{where}, line {lines[at]}: expected a number, got {cells[at][:40]!r}: "
            "features must be numbers (encode categories as columns of 0 and 1)"
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
