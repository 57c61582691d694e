"""Training and test images for `reproduce --data-dir`, from files that are there, never fetched."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from reluscape.errors import InputError
from reluscape.papers.liu_data import Bytes, read_images

#: Training files and test files; all files of the first pattern that there are, in the order of names.
PATTERNS = {
    "mnist": (
        ("train-images*idx3-ubyte*", "mnist_train_[0-9]*.npz", "mnist_train.npz"),
        ("t10k-images*idx3-ubyte*", "mnist_test*.npz"),
    ),
    "cifar": (
        ("data_batch_[1-5].bin", "cifar10_train_[0-9s]*.npz", "cifar10_train.npz"),
        ("test_batch.bin", "cifar10_test*.npz"),
    ),
}

Images = tuple[Bytes, Bytes]


def is_there(folder: str, source: str) -> bool:
    """Whether a folder has training and test images of a source."""
    return all(_files(folder, patterns) for patterns in PATTERNS[source])


def sources_in(folder: Path) -> tuple[str, list[str]]:
    """A folder's full name, and which images are in it.

    Raises:
        InputError: Neither MNIST nor CIFAR-10.
    """
    place = str(folder.resolve())
    there = [source for source in PATTERNS if is_there(place, source)]
    if not there:
        looked = ", ".join(files[0] for parts in PATTERNS.values() for files in parts)
        raise InputError(f"{folder} has no MNIST or CIFAR-10 images: expected {looked} and so on")
    return place, there


@lru_cache(maxsize=4)
def train_and_test(folder: str, source: str) -> tuple[Images, Images]:
    """Images and labels for training and for testing, in the files' order.

    Raises:
        InputError: No such files, or damaged ones.
    """
    training, testing = (_joined(folder, source, patterns) for patterns in PATTERNS[source])
    return training, testing


@lru_cache(maxsize=4)
def fingerprint(folder: str, source: str) -> str:
    """SHA-256 of all these images and labels."""
    state = hashlib.sha256()
    for images, labels in train_and_test(folder, source):
        state.update(np.ascontiguousarray(images).tobytes())
        state.update(labels.astype(np.uint8).tobytes())
    return state.hexdigest()


def checked(folder: str, source: str, sha256: str) -> tuple[Images, Images]:
    """The images, if they still are those that a study was planned with."""
    if fingerprint(folder, source) != sha256:
        raise InputError(f"the {source} images in {folder} have changed since this study was begun")
    return train_and_test(folder, source)


def _files(folder: str, patterns: tuple[str, ...]) -> list[Path]:
    """The files of the first pattern that there are."""
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"expected a folder with images; {folder} is none: give --data-dir FOLDER")
    found = (sorted(place.glob(pattern)) for pattern in patterns)
    return next((files for files in found if files), [])


def _joined(folder: str, source: str, patterns: tuple[str, ...]) -> Images:
    """Images and labels of several files."""
    files = _files(folder, patterns)
    if not files:
        raise InputError(f"{folder} has none of {', '.join(patterns)}: put one there")
    images, labels = zip(*(read_images(path, source) for path in files), strict=True)
    return np.concatenate(images), np.concatenate(labels)
