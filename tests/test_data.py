"""Data sets by name, from files and from factories; every bad input is one line."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reluscape.data import Data, load_data
from reluscape.errors import InputError

X = np.arange(12.0).reshape(6, 2)
Y = np.array([0, 1, 2, 0, 1, 2])


def save(path: Path, **arrays: object) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(source: str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_data(source, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- built-in sets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("digits", (1797, 64), 10),
        ("breast_cancer", (569, 30), 2),
        ("wine", (178, 13), 3),
        ("diabetes", (442, 10), 0),
    ],
)
def test_built_in_sets(name: str, shape: tuple[int, int], classes: int) -> None:
    data = load_data(name)
    assert data.inputs.shape == shape
    assert data.inputs.dtype == np.float64
    assert len(data.classes) == classes
    assert len(data.features) == shape[1]
    assert data.num_samples == shape[0]
    assert data.targets.dtype == (np.int64 if classes else np.float64)
    assert data.targets.shape == ((shape[0],) if classes else (shape[0], 1))


def test_repr_is_one_line() -> None:
    assert repr(load_data("wine")) == "Data(wine: 178 samples of 13 features, 3 classes)"


# --- npz ----------------------------------------------------------------------------------------


def test_npz_keeps_shapes_and_raw_pixels(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    data = load_data(save(tmp_path / "a.npz", x=pixels, y=np.array([1, 0], dtype=np.uint8)))
    np.testing.assert_array_equal(data.inputs, pixels.astype(float))
    assert data.flattened().inputs.shape == (2, 9)
    np.testing.assert_array_equal(data.targets, [1, 0])


@pytest.mark.parametrize(
    ("labels", "indices", "classes"),
    [
        (np.array([-1, 1, 1]), [0, 1, 1], ("-1", "1")),
        (np.array([True, False, True]), [1, 0, 1], ("False", "True")),
        (np.array(["b", "a", "b"]), [1, 0, 1], ("a", "b")),
        (np.array([b"b", b"a", b"b"]), [1, 0, 1], ("a", "b")),
        (np.array([[3], [5], [3]], dtype=np.uint8), [3, 5, 3], tuple("012345")),
    ],
)
def test_labels_become_indices(
    tmp_path: Path, labels: np.ndarray, indices: list[int], classes: tuple[str, ...]
) -> None:
    data = load_data(save(tmp_path / "a.npz", x=X[:3], y=labels))
    np.testing.assert_array_equal(data.targets, indices)
    assert data.targets.dtype == np.int64
    assert data.classes == classes


def test_dtype_decides_between_labels_and_targets(tmp_path: Path) -> None:
    floats = load_data(save(tmp_path / "f.npz", x=X, y=Y.astype(float)))
    assert floats.classes == ()
    np.testing.assert_array_equal(floats.targets, Y[:, None])
    many = np.arange(100)
    counts = load_data(save(tmp_path / "c.npz", x=many, y=many * 7))
    assert counts.classes == ()
    assert any("100 distinct integers" in note for note in counts.notes)


def test_class_names_in_the_file_are_used(tmp_path: Path) -> None:
    names = np.array(["cat", "dog", "eel"])
    data = load_data(save(tmp_path / "a.npz", x=X, y=Y, class_names=names))
    assert data.classes == ("cat", "dog", "eel")
    assert "label 2" in refusal(save(tmp_path / "b.npz", x=X, y=Y, class_names=names[:2]))


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": X}, "lacks y: expected the keys x and y, found x"),
        ({"a": X}, "lacks x and y"),
        ({"x": X, "y": Y[:5]}, "6 samples in x but 5 in y"),
        ({"x": X[:0], "y": Y[:0]}, "0 samples"),
        ({"x": X[:1], "y": Y[:1]}, "1 sample of"),
        ({"x": X[:, :0], "y": Y}, "at least 1 feature"),
        ({"x": np.float64(3), "y": Y}, "got a scalar"),
        ({"x": X * 1j, "y": Y}, "complex"),
        ({"x": X.astype(str), "y": Y}, "text"),
        ({"x": X.astype("datetime64[s]"), "y": Y}, "datetime64"),
        ({"x": np.where(X == 5, np.nan, X), "y": Y}, "1 values that are not finite"),
        ({"x": np.where(X == 5, np.nan, X), "y": Y}, "(nan) at row 2, column 1"),
        ({"x": np.where(X > 5, -np.inf, X), "y": Y}, "(-inf) at row 3, column 0"),
        ({"x": X, "y": np.where(Y > 1, np.inf, 1.0)}, "y holds 2 values"),
        ({"x": X.astype(np.longdouble) * np.longdouble("1e400"), "y": Y}, "not finite float64"),
        ({"x": X, "y": Y.astype(np.uint64) + np.uint64(2**63)}, "overflow"),
        ({"x": X, "y": (Y + 126).astype(np.int8)}, "the label -128 (an overflow?) at row 2"),
        ({"x": X, "y": Y * 10**12}, "the label 1000000000000"),
        ({"x": X, "y": Y[:, None, None]}, "expected (N,)"),
        ({"x": X, "y": X[:, :0]}, "at least one target column"),
        ({"x": X, "y": Y * 1j}, "complex"),
    ],
)
def test_npz_refusals(tmp_path: Path, arrays: dict[str, np.ndarray], expected: str) -> None:
    if "label -128" in expected:
        arrays = arrays | {"y": np.array([126, 127, -128, 126, 127, -128], dtype=np.int8)}
    assert expected in refusal(save(tmp_path / "bad.npz", **arrays))


def test_nan_in_images_is_located(tmp_path: Path) -> None:
    images = np.zeros((4, 2, 3))
    images[2, 1, 0] = np.nan
    assert "row 2, position (1, 0)" in refusal(save(tmp_path / "a.npz", x=images, y=Y[:4]))


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=np.array([{}, 1], dtype=object), y=Y[:2])
    assert "pickled objects, which are never loaded" in refusal(path)


@pytest.mark.parametrize("keep", [0, 10, 100, 300, -30, -1])
def test_truncated_npz(tmp_path: Path, keep: int) -> None:
    path = Path(save(tmp_path / "a.npz", x=X, y=Y))
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a complete .npz" in refusal(str(path)) or "pickled" in refusal(str(path))


@pytest.mark.parametrize("content", [b"hello" * 100, b"", b"P", b"\x80\x04K\x01."])
def test_another_file_named_npz_is_called_that(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    text = refusal(str(path))
    assert "not a complete .npz file (it is no zip archive of arrays)" in text
    assert "pickle" not in text


def test_damaged_npz_never_escapes_as_another_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=X, y=Y)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    messages = []
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(bad))
        try:
            load_data(str(path))
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 150
    assert not any("\n" in message for message in messages)


def test_single_array_file_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    os.rename(tmp_path / "a.npy", tmp_path / "a.npz")
    assert "single array" in refusal(str(tmp_path / "a.npz"))


# --- names and files ----------------------------------------------------------------------------


def test_unknown_names_suggest_the_closest(tmp_path: Path) -> None:
    assert "did you mean digits?" in refusal("digit")
    assert "the names are digits" in refusal("zzz")
    assert "does not exist" in refusal(str(tmp_path / "no.npz"))
    (tmp_path / "folder.csv").mkdir()
    assert "got the folder" in refusal(str(tmp_path / "folder.csv"))
    assert "a target column is for .csv" in refusal("digits", target="a")


# --- csv ----------------------------------------------------------------------------------------


def test_csv_with_header_and_text_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "width,height,kind\n1,2,cat\n3,4.5,dog\n5,6,cat\n")
    data = load_data(path)
    np.testing.assert_array_equal(data.inputs, [[1, 2], [3, 4.5], [5, 6]])
    np.testing.assert_array_equal(data.targets, [0, 1, 0])
    assert (data.classes, data.features) == (("cat", "dog"), ("width", "height"))


@pytest.mark.parametrize("target", ["height", "1", "-2"])
def test_csv_target_by_name_or_index(tmp_path: Path, target: str) -> None:
    path = write(tmp_path / "a.csv", "width;height;depth\n1;2.5;3\n4;5.5;6\n")
    data = load_data(path, target=target)
    np.testing.assert_array_equal(data.inputs, [[1, 3], [4, 6]])
    np.testing.assert_array_equal(data.targets, [[2.5], [5.5]])


def test_csv_without_header(tmp_path: Path) -> None:
    numbers = load_data(write(tmp_path / "a.csv", "1,2,0\n3,4,1\n\n"))
    np.testing.assert_array_equal(numbers.inputs, [[1, 2], [3, 4]])
    assert numbers.classes == ("0", "1")
    text = load_data(write(tmp_path / "b.csv", "1\t2\ta\n3\t4\tb\n"))
    assert text.classes == ("a", "b")


def test_csv_header_of_numbered_columns(tmp_path: Path) -> None:
    data = load_data(write(tmp_path / "a.csv", "\ufeff0,1,label\n5,6,1\n7,8,0\n"))
    np.testing.assert_array_equal(data.inputs, [[5, 6], [7, 8]])
    assert data.features == ("0", "1")


def test_csv_note_on_a_row_index(tmp_path: Path) -> None:
    data = load_data(write(tmp_path / "a.csv", ",a,b\n0,5,1\n1,7,0\n2,3,1\n"))
    assert any("column '' counts the rows" in note for note in data.notes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a,b\n", "no samples"),
        ("a\n1\n2\n", "one column"),
        ("a,b\n1,2\n", "1 sample of"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, the first line 2"),
        ("a,b,c\n1,x,0\n2,3,1\n", "column 'b', line 2: expected a number, got 'x'"),
        ("a,b,c\n1,,0\n2,3,1\n", "column 'b', line 2: expected a number, got ''"),
        ("a,b,c\n1,nan,0\n2,3,1\n", "row 0, column 'b'"),
        ("a,b\n1,x\n2,\n", "column 'b', line 3: the target is missing"),
        ("a,b\n1,0\n2,99999999999999999999\n", "line 3: the integer does not fit"),
        ('a,b\n1,"0\n', "not a UTF-8 .csv table"),
    ],
)
def test_csv_refusals(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(write(tmp_path / "a.csv", text))


def test_csv_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x01")
    assert "not a UTF-8 .csv" in refusal(str(tmp_path / "a.csv"))


def test_csv_unknown_target(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,b\n1,2\n3,4\n")
    assert "no target column 'c'; its columns are a, b" in refusal(path, target="c")
    assert "no target column '2'" in refusal(path, target="2")


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.floats(-1e300, 1e300).map(lambda v: v + 0.0)] * 3), min_size=2, max_size=8
    ),
    separator=st.sampled_from(",;\t"),
)
def test_csv_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, ...]], separator: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([("a", "b", "c"), *rows])
    data = load_data(str(path))
    np.testing.assert_array_equal(np.hstack([data.inputs, data.targets]), rows)


# --- module:factory -----------------------------------------------------------------------------


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import sys
import numpy as np
from reluscape.data import Data
def pair(): return [[1, 2], [3, 4]], ["a", "b"]
def data(): return Data(np.eye(2), np.array([0, 1]), "mine", ("n", "y"))
def broken(): return Data(np.eye(2) * np.nan, np.array([0, 1]), "mine", ("n", "y"))
def triple(): return 1, 2, 3
def ragged(): return [[1], [1, 2]], [0, 1]
def fails(): raise KeyError("two\\nlines")
def leaves(): sys.exit(3)
class Inner:
    make = staticmethod(pair)
"""
    (tmp_path / "data_factories_of_test.py").write_text(code)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("factories")
def test_factories() -> None:
    data = load_data("data_factories_of_test:pair")
    np.testing.assert_array_equal(data.inputs, [[1, 2], [3, 4]])
    assert data.classes == ("a", "b")
    assert load_data("data_factories_of_test:Inner.make").classes == ("a", "b")
    own = load_data("data_factories_of_test:data")
    assert (own.name, own.classes) == ("mine", ("n", "y"))


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("broken", "not finite"),
        ("triple", "must return (x, y) or a Data"),
        ("ragged", "no array"),
        ("fails", "KeyError: 'two\\nlines'"),
        ("leaves", "SystemExit: 3"),
        ("absent", "AttributeError"),
    ],
)
def test_factory_refusals(name: str, expected: str) -> None:
    assert expected in refusal(f"data_factories_of_test:{name}")


@pytest.mark.usefixtures("factories")
def test_missing_factory_module_and_path_restored() -> None:
    import sys

    before = list(sys.path)
    assert "ModuleNotFoundError" in refusal("no_such_module_of_test:make")
    assert sys.path == before


# --- what is unusual but works ------------------------------------------------------------------


def test_notes_on_constant_columns_duplicates_and_contradictions(tmp_path: Path) -> None:
    x = np.array([[1.0, 7.0], [1.0, 7.0], [2.0, 7.0], [1.0, 7.0]])
    data = load_data(save(tmp_path / "a.npz", x=x, y=np.array([0, 0, 1, 1])))
    assert "1 of 2 input columns are constant." in data.notes
    assert "2 samples repeat the inputs of an earlier sample." in data.notes
    assert any(note.startswith("1 of these have another class label") for note in data.notes)


def test_negative_zero_is_a_duplicate_of_zero(tmp_path: Path) -> None:
    data = load_data(save(tmp_path / "a.npz", x=np.array([[0.0, 1], [-0.0, 1]]), y=Y[:2]))
    assert any("1 samples repeat" in note for note in data.notes)


def test_standardise(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(5, 3, (50, 3))
    x[:, 1] = 0.1  # whose mean over 50 samples is not 0.1 in float64
    data = load_data(save(tmp_path / "a.npz", x=x, y=np.arange(50) % 2), standardise=True)
    assert data.standardised
    np.testing.assert_allclose(data.inputs.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(data.inputs.std(axis=0), [1, 0, 1], atol=1e-14)
    assert any("1 constant columns only centred" in note for note in data.notes)


def test_standardise_refuses_overflow(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=np.array([[1e300, 1], [-1e300, 2], [1e308, 3]]), y=Y[:3])
    assert "input column 0 is too large to standardise" in refusal(path, standardise=True)


def test_whole_numbers_are_fitted_where_one_is_written_with_a_point(tmp_path: Path) -> None:
    """As the error about their classes says."""
    path, rows = tmp_path / "a.csv", ["0.1,3", "0.2,1", "0.3,2", "0.4,0"]
    path.write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"as floats: 3\.0, not 3$"):
        load_data(str(path)).targets_for("squared", 1)
    path.write_text("\n".join([rows[0] + ".0", *rows[1:]]))
    targets = load_data(str(path)).targets_for("squared", 1)
    np.testing.assert_array_equal(targets, [[3.0], [1.0], [2.0], [0.0]])


# --- targets for a loss -------------------------------------------------------------------------


def classes(*labels: int, count: int) -> Data:
    names = tuple(str(k) for k in range(count))
    return Data(np.zeros((len(labels), 1)), np.array(labels), "d", names)


def named(*names: str) -> Data:
    return Data(np.zeros((len(names), 1)), np.arange(len(names)), "d", names)


def test_targets_for_class_labels() -> None:
    three, two = classes(0, 2, 1, count=3), classes(0, 1, count=2)
    np.testing.assert_array_equal(three.targets_for("cross_entropy", 3), [0, 2, 1])
    np.testing.assert_array_equal(
        three.targets_for("squared", 4), [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    )
    np.testing.assert_array_equal(two.targets_for("l1", 2), [[1, 0], [0, 1]])
    np.testing.assert_array_equal(two.targets_for("half_squared", 1), [[-1], [1]])
    np.testing.assert_array_equal(classes(3, 5, count=6).targets_for("squared", 1), [[-1], [1]])


def test_targets_for_regression() -> None:
    data = Data(np.zeros((2, 1)), np.array([[1.0, 2.0], [3.0, 4.0]]), "d")
    np.testing.assert_array_equal(data.targets_for("l1", 2), data.targets)


@pytest.mark.parametrize(
    ("data", "loss", "outputs", "expected"),
    [
        (classes(0, 1, count=2), "cross_entropy", 1, "one output per class"),
        (classes(0, 4, count=5), "cross_entropy", 4, "the class label 4 but the model has 4"),
        (classes(0, 4, count=5), "squared", 3, "renumber the labels from 0"),
        (classes(0, 1, 2, count=3), "squared", 1, "has 3 classes"),
        (classes(1, 1, 1, count=3), "squared", 1, "has 1 class;"),
        (classes(0, 1, 2, count=3), "l1", 1, "store numbers to fit as floats: 3.0, not 3$"),
        (named("a", "b", "c"), "squared", 1, "a model with one output per class$"),
        (classes(0, 1, count=2), "hinge", 2, "expected a loss among squared"),
        (Data(np.zeros((2, 1)), np.ones((2, 1)), "d"), "cross_entropy", 2, "regression targets"),
        (Data(np.zeros((2, 1)), np.ones((2, 1)), "d"), "squared", 2, "2 outputs but d has 1"),
    ],
)
def test_targets_that_do_not_fit(data: Data, loss: str, outputs: int, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        data.targets_for(loss, outputs)


# --- the published subsets, where they are ------------------------------------------------------

SUBSETS = Path(os.environ.get("RELUSCAPE_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.mark.skipif(not SUBSETS.is_dir(), reason="set RELUSCAPE_DATA to the folder of subsets")
def test_mnist_and_cifar_subsets() -> None:
    mnist = load_data(str(SUBSETS / "mnist_train_first100_zeros_ones.npz"))
    assert mnist.inputs.shape == (200, 28, 28)
    assert mnist.inputs.max() == 255
    assert mnist.targets_for("squared", 1).sum() == 0
    cifar = load_data(str(SUBSETS / "cifar10_train_first100_airplane_automobile.npz"))
    assert cifar.inputs.shape == (200, 32, 32, 3)
    assert cifar.classes[:2] == ("airplane", "automobile")
