"""Certificates in float64, and in rational arithmetic where that leaves a small block undecided."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from reluscape.block import Block
from reluscape.certificate import MINIMA, Certificate
from reluscape.errors import InputError
from reluscape.network_output import NetworkOutput
from reluscape.proof import certify

__all__ = ["certify_further"]

#: Parameters up to which rational arithmetic is tried.
RATIONAL = 60


def certify_further(function: Block | NetworkOutput, theta: NDArray[np.float64]) -> Certificate:
    """Certificate of a point that is thought to be a minimum.

    Slopes of exactly zero (flat edges) are common at vertices and where samples tie, and only rationals
    see all of them.
    """
    certificate = certify(function, theta)
    if certificate.claim != "undecided" or function.size > RATIONAL or find_spec("flint") is None:
        return certificate
    try:
        exact = certify(function, theta, arithmetic="rational")
    except InputError:  # too large for it
        return certificate
    return exact if exact.claim in MINIMA else certificate
