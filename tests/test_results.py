"""Saving and loading results: whole or not at all, and back without a bit lost."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np
import pytest
from numpy.typing import NDArray

from reluscape.cell import Chord, Facets
from reluscape.errors import InputError
from reluscape.results import Result, write_then_rename


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Mixed(Result):
    """One field of every kind."""

    values: NDArray[np.float64]
    flags: NDArray[np.bool_]
    counts: NDArray[np.intp]
    label: str
    ratio: float
    number: int
    done: bool
    limit: float | None
    note: str | None


def mixed(**changes) -> Mixed:
    start = {
        "values": np.array([[0.1, -0.0, np.nan], [np.inf, -np.inf, 5e-324]]),
        "flags": np.array([True, False, True]),
        "counts": np.array([2**40, -1], dtype=np.intp),
        "label": "σ · 2\nlines",
        "ratio": 0.1 + 0.2,
        "number": 7,
        "done": True,
        "limit": None,
        "note": None,
    }
    return Mixed(**(start | changes))


def facets(count: int = 3) -> Facets:
    rng = np.random.default_rng(0)
    normals, witnesses = rng.normal(size=(2, count, 4))
    return Facets(normals, rng.normal(size=count), np.arange(count), witnesses)


def chord() -> Chord:
    return Chord(np.array([1.0, np.inf]), np.array([0.5, np.inf]), 0.5)


def assert_same(first: Result, second: Result) -> None:
    assert type(first) is type(second)
    for one in fields(first):
        a, b = getattr(first, one.name), getattr(second, one.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, one.name
            assert a.shape == b.shape, one.name
            assert a.tobytes() == b.tobytes(), one.name
        else:
            assert a == b or (a != a and b != b), one.name
            assert type(a) is type(b), one.name


@pytest.mark.parametrize(
    "result",
    [
        mixed(),
        mixed(limit=1.5, note="kept", done=False, ratio=float("nan")),
        mixed(flags=np.empty(0, dtype=bool), values=np.empty((0, 3)), label=""),
        mixed(ratio=float("inf"), number=-(2**50)),
        facets(),
        facets(0),
        chord(),
    ],
    ids=lambda result: type(result).__name__,
)
def test_a_saved_result_comes_back_bit_by_bit(result, tmp_path):
    path = result.save(tmp_path / "made" / "result.nc")
    assert path == tmp_path / "made" / "result.nc"
    assert_same(type(result).load(path), result)
    assert_same(type(result).load(str(path)), result)
    assert [file.name for file in path.parent.iterdir()] == ["result.nc"]


def test_saving_again_replaces_the_file(tmp_path):
    path = tmp_path / "result.nc"
    mixed().save(path)
    mixed(number=8).save(path)
    assert Mixed.load(path).number == 8


def test_a_result_is_readable_by_xarray_alone(tmp_path):
    import xarray as xr

    facets().save(tmp_path / "facets.nc")
    with xr.open_dataset(tmp_path / "facets.nc", engine="h5netcdf") as file:
        np.testing.assert_array_equal(file["normals"], facets().normals)
        assert file.attrs["result"] == "Facets"


def test_a_file_of_another_class_is_refused(tmp_path):
    path = chord().save(tmp_path / "chord.nc")
    with pytest.raises(
        InputError, match=r"expected a file with a Facets; .* holds 'Chord'"
    ) as error:
        Facets.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = facets().save(tmp_path / "facets.nc")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match="expected a NetCDF file with a Facets") as error:
        Facets.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"not a netcdf file\n" * 50, b"{}", b"CDF\x01" + bytes(60)])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "facets.nc"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected a NetCDF file"):
        Facets.load(path)


def test_a_netcdf_file_without_the_fields_is_refused(tmp_path):
    import xarray as xr

    path = tmp_path / "facets.nc"
    xr.Dataset(attrs={"result": "Facets"}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(InputError, match="its digest does not match"):
        Facets.load(path)
    content = path.read_bytes()
    path.write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(InputError, match="expected a result with field"):
        Facets.load(path)


def test_a_file_with_any_byte_changed_is_refused_before_it_is_read(tmp_path, capfd):
    """HDF5 may print, loop or read other numbers from changed bytes; the digest comes first."""
    path = facets().save(tmp_path / "facets.nc")
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, len(content), 300):
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(InputError, match="its digest does not match") as error:
            Facets.load(path)
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.nc", tmp_path):
        with pytest.raises(InputError, match="expected a NetCDF file"):
            Facets.load(path)


def test_a_place_that_cannot_be_written_stays_as_it_was(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("precious")
    for target in (blocker / "result.nc", blocker / "deeper" / "result.nc"):
        with pytest.raises((OSError, InputError)):
            facets().save(target)
    folder = tmp_path / "folder.nc"
    folder.mkdir()
    (folder / "inside").write_text("precious")
    with pytest.raises((OSError, InputError)):
        facets().save(folder)
    assert blocker.read_text() == "precious"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.nc"]
    assert [file.name for file in folder.iterdir()] == ["inside"]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path):
    target = tmp_path / "report.txt"
    target.write_text("old")

    def break_off(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_then_rename(target, break_off)
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.txt"]


@pytest.mark.parametrize("room", [0, 1000, 10_000, 40_000])
def test_a_full_disk_is_an_error_with_the_files_name_and_leaves_the_old_file(
    tmp_path, full_disk, room
):
    target = chord().save(tmp_path / "result.nc")
    with full_disk(room), pytest.raises(OSError, match="File too large") as error:
        facets(1000).save(target)
    assert error.value.filename == str(target)
    assert_same(Chord.load(target), chord())
    assert [file.name for file in tmp_path.iterdir()] == ["result.nc"]


def test_an_error_without_a_number_keeps_its_message(tmp_path):
    def break_off(temporary):
        raise OSError("the medium is gone")

    with pytest.raises(OSError, match=r"^the medium is gone$"):
        write_then_rename(tmp_path / "report.txt", break_off)


def test_the_same_result_is_the_same_bytes(tmp_path):
    first, second = (facets().save(tmp_path / name).read_bytes() for name in ("1.nc", "2.nc"))
    assert first == second


@pytest.mark.parametrize("result", [mixed(), facets(), chord()], ids=lambda r: type(r).__name__)
def test_repr_is_one_line_and_the_summary_has_a_line_for_each_field(result):
    name = type(result).__name__
    assert repr(result).startswith(f"{name}(")
    assert "\n" not in repr(result)
    assert len(repr(result)) < 300
    lines = result.summary().splitlines()
    assert lines[0] == name
    assert [line.split(":")[0].strip() for line in lines[1:]] == [f.name for f in fields(result)]


def test_results_cannot_be_changed():
    with pytest.raises(AttributeError):
        chord().open_fraction = 1.0
    with pytest.raises((AttributeError, TypeError)):
        chord().other = 1.0
