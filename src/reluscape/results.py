"""What every result shares: a one-line repr, a summary, and saving to NetCDF and back."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from io import BytesIO
from os.path import relpath
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, ClassVar, Self, cast

import numpy as np
import xarray as xr

from reluscape.errors import InputError

#: Characters of a field beyond which `repr` leaves off.
LONGEST = 60
#: Numbers of an array beyond which its shape is shown instead.
FEW = 4
#: Bytes of a SHA-256.
DIGEST = hashlib.sha256().digest_size


class Result:
    """Base of the frozen result dataclasses.

    `save` writes one NetCDF file (arrays as variables, everything else as attributes) under a
    temporary name and renames it, so that a file is either whole or absent. `load` is its inverse.
    The file ends in the SHA-256 of what comes before, which readers of NetCDF pass over: bytes that
    were changed are found before any of them is interpreted.
    """

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def summary(self) -> str:
        """The result in a few lines, one field a line, long arrays by their shape."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        lines = [f"  {name}: {_brief(value)}" for name, value in values]
        return "\n".join([type(self).__name__, *lines])

    def __repr__(self) -> str:
        """One line: the class and its fields, long arrays by their shape."""
        inside = ", ".join(f"{f.name}={_brief(getattr(self, f.name))}" for f in fields(self))
        return f"{type(self).__name__}({inside})"

    def to_dataset(self) -> xr.Dataset:
        """Return the result as an xarray dataset."""
        variables: dict[str, xr.Variable] = {}
        attributes: dict[str, Any] = {"result": type(self).__name__}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                data = value.astype(np.int8) if value.dtype == np.bool_ else value
                dims = tuple(f"{f.name}_{axis}" for axis in range(value.ndim))
                variables[f.name] = xr.Variable(
                    dims, data, {"boolean": int(value.dtype == np.bool_)}
                )
            elif isinstance(value, tuple):
                attributes[f.name] = json.dumps(value)
            elif value is not None:
                attributes[f.name] = int(value) if isinstance(value, bool) else value
        return xr.Dataset(variables, attrs=attributes)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result to a NetCDF file and return its path."""
        target = Path(path)
        content = netcdf(self.to_dataset())
        write_then_rename(target, lambda temporary: _write_signed(content, temporary))
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a result that `save` wrote.

        Raises:
            InputError: A missing, truncated or changed file, or one that holds another kind of result.
        """
        return cast(Self, load_one_of(path, (cls,)))

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset) -> Self:
        """The result of a dataset that `to_dataset` made."""
        return cls(
            **{f.name: _restore(dataset, f.name, str(f.type)) for f in fields(cast(Any, cls))}
        )


def load_one_of(path: str | os.PathLike[str], kinds: Sequence[type[Result]]) -> Result:
    """Read a result of one of these kinds.

    Raises:
        InputError: As `Result.load`.
    """
    named = {kind.__name__: kind for kind in kinds}
    wanted = " or a ".join(named)
    dataset = _read_signed(path, f"expected a NetCDF file with a {wanted}")
    kind = dataset.attrs.get("result")
    if kind not in named:
        raise InputError(f"expected a file with a {wanted}; {str(path)!r} holds {kind!r}")
    return named[kind].from_dataset(dataset)


def netcdf(dataset: xr.Dataset | xr.DataTree) -> memoryview:
    """A dataset as the bytes of a NetCDF file.

    In memory, because HDF5 does not survive a full disk: where it fails to close a file, the process may
    crash.
    """
    return dataset.to_netcdf(engine="h5netcdf")


def _write_signed(content: memoryview, path: Path) -> None:
    """Write bytes and, behind them, their digest."""
    with open(path, "wb") as file:
        file.write(content)
        file.write(hashlib.sha256(content).digest())


def _read_signed(path: str | os.PathLike[str], expected: str) -> xr.Dataset:
    """The dataset of a file that `_write_signed` wrote."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{expected}; could not read {str(path)!r}: {error}") from error
    content, digest = content[:-DIGEST], content[-DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise InputError(
            f"{expected}; {str(path)!r} was cut or changed after it was written, or is no result:"
            " its digest does not match"
        )
    with xr.open_dataset(BytesIO(content), engine="h5netcdf", decode_cf=False) as file:
        return file.load()


def write_then_rename(target: Path, write: Any) -> None:
    """Call `write(temporary path)` and rename the outcome to `target`; leave nothing half-written.

    Raises:
        OSError: It cannot be written, as on a full disk; under the target's name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno is not None:  # else the message is all that it has
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path, *inside: Path) -> None:
    """Write to a folder and those inside it once, before any work is done, and leave no trace.

    Raises:
        InputError: One of them cannot be made or written to.
    """
    made: list[Path] = []
    try:
        for place in (folder, *inside):
            for at in reversed((place, *place.parents)):
                if not at.exists():
                    at.mkdir()
                    made.append(at)
            with TemporaryFile(dir=place) as probe:
                probe.write(b"0")
    except OSError as error:
        raise InputError(
            f"out must be a folder that can be written to; received {str(folder)!r} "
            f"({error.strerror}): choose another folder or change its permissions"
        ) from error
    finally:
        for at in reversed(made):
            with suppress(OSError):  # not empty: someone else has begun to use it
                at.rmdir()


def certificate_name(layer: str | None) -> str:
    """File of a layer's certificate, or of the whole network's."""
    return (
        "network.json" if layer is None else f"layer-{re.sub(r'[^A-Za-z0-9._-]', '-', layer)}.json"
    )


def options_from(options: Sequence[str], folder: Path | None) -> list[str]:
    """Command-line options as they read in a folder: paths of files are rewritten from there."""
    return [relpath(at, folder) if folder and Path(at).is_file() else at for at in options]


def _restore(dataset: xr.Dataset, name: str, kind: str) -> Any:
    """Field `name` of a saved result; `kind` is its annotation."""
    if name in dataset.variables:
        variable = dataset[name]
        values = np.asarray(variable.values)
        return values.astype(np.bool_) if variable.attrs.get("boolean") else values
    value = dataset.attrs.get(name)
    if kind.startswith("tuple"):  # files of before there was such a field hold none
        return tuple(json.loads("[]" if value is None else value))
    if value is None and not kind.endswith("None"):
        raise InputError(f"expected a result with field {name!r}; the file lacks it")
    if value is not None and kind.startswith(("bool", "float", "int", "str")):
        try:
            return {"bool": bool, "float": float, "int": int, "str": str}[kind.split()[0]](value)
        except ValueError as error:
            raise InputError(
                f"expected a {kind} as field {name!r}; the file has {value!r}"
            ) from error
    return value


def _brief(value: object) -> str:
    """A value in few characters."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, np.ndarray):
        few = value.ndim == 1 and len(value) <= FEW
        return (
            f"[{', '.join(_brief(one) for one in value.tolist())}]"
            if few
            else f"array{value.shape}"
        )
    if isinstance(value, Result):
        return f"{type(value).__name__}(...)"
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
