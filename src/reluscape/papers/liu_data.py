"""The images of `reproduce liu --data-dir`: MNIST and CIFAR-10 from files that are there, never fetched.

MNIST as IDX files or .npz, CIFAR-10 as its binary batches or .npz; an .npz has the keys x and y. Pickled
files (CIFAR-10's "python version") are not read.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reluscape.data_files import read_npz
from reluscape.errors import InputError

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

#: Pixels of an image, with its channels.
SHAPES = {"mnist": (28, 28), "cifar": (32, 32, 3)}
#: What is looked for, the first first: all training images, then any others.
PATTERNS = {
    "mnist": ("train-images*idx3-ubyte*", "mnist_train_0*.npz", "mnist*train*.npz", "mnist*.npz"),
    "cifar": ("data_batch_1.bin", "cifar10_train_subset.npz", "cifar*train*.npz", "cifar*.npz"),
}
#: Labels of the two classes: zeros and ones, aeroplanes and automobiles.
CLASSES = (0, 1)
#: Images of a class, and of a set for chords.
EACH, MANY = 100, 2000
#: Weights of red, green and blue in grey (ITU-R BT.601, as in Matlab's rgb2gray).
GREY = np.array([0.2989, 0.5870, 0.1140])


def pair_of(folder: str, source: str, sha256: str) -> tuple[Floats, Floats]:
    """The first 100 images of both classes, (200, pixels) in [0, 1], and labels 1 and -1."""
    images, labels = _checked(folder, source, sha256)
    rows = [np.flatnonzero(labels == one)[:EACH] for one in CLASSES]
    signs = np.repeat([1.0, -1.0], [len(one) for one in rows])
    return as_grey(images[np.concatenate(rows)]), signs


def cell_images(folder: str, source: str, sha256: str) -> Floats:
    """The first 2,000 images of all classes, or what there is, (images, pixels) in [0, 1]."""
    return as_grey(_checked(folder, source, sha256)[0][:MANY])


def as_grey(images: Bytes) -> Floats:
    """Pixels of 0 to 255 as rows in [0, 1], colours as grey."""
    values = images.astype(np.float64) / 255.0
    values = values @ GREY if values.ndim == 4 else values
    return np.asarray(values.reshape(len(values), -1))


def fingerprint(folder: str, source: str) -> tuple[str, int]:
    """SHA-256 of the images and labels that a folder gives for a source, and how many they are."""
    images, labels = load(folder, source)
    state = hashlib.sha256(np.ascontiguousarray(images).tobytes())
    state.update(labels.astype(np.uint8).tobytes())
    return state.hexdigest(), len(images)


def _checked(folder: str, source: str, sha256: str) -> tuple[Bytes, Bytes]:
    """The images, if they still are those that a study was planned with."""
    if _fingerprint(folder, source)[0] != sha256:
        raise InputError(f"the {source} images in {folder} have changed since this study was begun")
    return load(folder, source)


def file_of(folder: str, source: str) -> Path | None:
    """The file of a source's images in a folder, None without one.

    Raises:
        InputError: No such folder.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"expected a folder with images; {folder} is none: give --data-dir FOLDER")
    found = [path for pattern in PATTERNS[source] for path in sorted(place.glob(pattern))]
    return next((path for path in found if "test" not in path.name), None)


@lru_cache(maxsize=4)
def load(folder: str, source: str) -> tuple[Bytes, Bytes]:
    """Images and labels of the first file that is there: enough of them, in their order.

    Raises:
        InputError: No such folder or file, a damaged one, or too few images of a class.
    """
    path = file_of(folder, source)
    if path is None:
        raise InputError(f"{folder} has none of {', '.join(PATTERNS[source])}: put one there")
    images, labels = read_images(path, source)
    for one in CLASSES:
        if (count := int((labels == one).sum())) < EACH:
            raise InputError(f"{path} must hold {EACH} images of label {one}; received {count}")
    return _enough(images, labels)


def read_images(path: Path, source: str) -> tuple[Bytes, Bytes]:
    """Images and labels of one file of a source.

    Raises:
        InputError: A damaged file, or one of other images.
    """
    images, labels = _npz(path) if path.suffix == ".npz" else _binary(path, source)
    if images.shape[1:] != SHAPES[source] or len(images) != len(labels):
        raise InputError(
            f"{path} must hold as many labels as images of {SHAPES[source]} bytes; received arrays"
            f" of shapes {images.shape} and {labels.shape}"
        )
    return images, labels


_fingerprint = lru_cache(maxsize=4)(fingerprint)


def _enough(images: Bytes, labels: Bytes) -> tuple[Bytes, Bytes]:
    """The first images, until there are enough for both uses."""
    needed = [int(np.flatnonzero(labels == one)[EACH - 1]) + 1 for one in CLASSES]
    stop = max(MANY, *needed)
    return images[:stop], labels[:stop]


def _npz(path: Path) -> tuple[Bytes, Bytes]:
    """The arrays x and y."""
    raw = read_npz(path)
    if raw.x.dtype != np.uint8:
        raise InputError(f"{path} must hold bytes of 0 to 255 in x; received {raw.x.dtype}")
    return raw.x, np.asarray(raw.y)


def _binary(path: Path, source: str) -> tuple[Bytes, Bytes]:
    """IDX files of images and labels, or a binary batch."""
    if source == "mnist":
        name = path.name.replace("images", "labels").replace("idx3", "idx1")
        return _idx(path, 3), _idx(path.with_name(name), 1)
    content = _read(path)
    size = 1 + 3 * 32 * 32
    if len(content) == 0 or len(content) % size:
        raise InputError(f"{path} must be a batch of {size} bytes each; received {len(content)}")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, size)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]


def _idx(path: Path, axes: int) -> Bytes:
    """An IDX file of bytes: 0, 0, 8, number of axes; big-endian lengths; values."""
    content = _read(path)
    head = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < head:
        raise InputError(f"{path} is no IDX file of bytes with {axes} axes: get it again")
    shape = tuple(int(one) for one in np.frombuffer(content[4:head], dtype=">u4"))
    if len(content) - head != int(np.prod(shape)):
        raise InputError(
            f"{path} must hold {int(np.prod(shape))} values; received {len(content) - head}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)


def _read(path: Path) -> bytes:
    """A file's bytes, unpacked if its name ends in .gz."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
