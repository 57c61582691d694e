"""`verify`: check a certificate against the raw network and data, without any solver.

Everything that a certificate states is recomputed by the independent evaluation of `local.py`, from
the network and data at hand and the certificate's own point, pattern and multipliers. A certificate
is valid only if all of it comes out again.
"""

from __future__ import annotations

import os

import numpy as np

from reluscape.arithmetic import arithmetic_called
from reluscape.certificate import (
    CLAIMS,
    FORMAT,
    SCOPES,
    Certificate,
    Verification,
    digest_of,
    fields_from_json,
    hash_data,
    hash_network,
    to_json,
)
from reluscape.check_block import RejectedError, check_block, require
from reluscape.check_convexity import check_convexity
from reluscape.check_landscape import check_landscape
from reluscape.convex import Convexity
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.minima.check import check_minimum
from reluscape.minima.result import CellMinimum
from reluscape.network_output import NetworkOutput
from reluscape.results import load_one_of
from reluscape.strings.check import check_connection
from reluscape.strings.check_tree import check_tree
from reluscape.strings.connection import Connection
from reluscape.strings.spanning import SpanningTree
from reluscape.strings.surface import Metric
from reluscape.trees.check import check_merge_tree
from reluscape.trees.result import MergeTree

#: A result that claims something and can be checked.
Claim = CellMinimum | Convexity | Connection | SpanningTree | MergeTree


def verify(
    path_or_certificate: str | os.PathLike[str] | Certificate | Claim,
    landscape: Landscape | NetworkOutput,
    *,
    metric: str | Metric | Landscape | None = None,
) -> Verification:
    """Check a certificate or a result that claims something against a landscape; never calls a solver.

    Recomputed from the landscape's network and data: the hashes, the pattern and active kinks at the
    certified point, the independence of their normals, the gradient and its split by the given
    multipliers, every slope by crossing its kink, curvatures, the descent along the given direction,
    and from all of these the claim.

    Args:
        path_or_certificate: A certificate or its JSON file; or a `CellMinimum` or its NetCDF file, whose
            weights are checked by a forward and a backward pass, and whose proof that there are none by
            products with the frozen network. What it tells besides is recomputed, but for `method`, and
            where a decomposition of the outputs' derivatives would take more than a tenth of a second,
            for whether minimisers are `unique` and for the squared loss of those outside the cell. Or a
            `Convexity` or its NetCDF file: its bounds are recomputed from their definition, and its
            direction is multiplied by the Hessian, written out in NumPy for networks that are read.
            That no direction has a smaller curvature is proved by a Cholesky factorisation for method
            "dense" where forming the Hessian takes some seconds, and else told; `error` of "lanczos"
            may be larger than it need be, and so may "dense" have become "lanczos", which claims less.
            Or a `Connection` or its NetCDF file: values, lengths and the maximum of every segment are
            computed again, each bound by `path_maximum`; how the path was found is told. It is about a
            path from its first bead to its last: compare those with your models. Or a `SpanningTree` or
            its NetCDF file: every string of it is checked like a connection, and the tree from their
            heights. Or a `MergeTree` or its NetCDF file: the layer's cells are enumerated again, the
            least loss of every cell and facet is shown to be least by its proof, and the tree follows by
            another algorithm.
        landscape: The network, data, loss and weight decay that it is about, or the network's output
            with its bounds.
        metric: For a `Connection` or a tree of them, as `connect` was given it; needed where it was a
            function or another landscape.

    Returns:
        Whether it is valid, and the reason. A file that is not a certificate is not valid either. An
        "undecided" certificate is valid when untouched: it claims nothing. `reason`, `version` and
        `moved` are told, not proved: only the digest guards them.

    Raises:
        InputError: The file does not exist, what was given claims nothing, a metric for what has none, or
            rational arithmetic without python-flint.
    """
    if not isinstance(landscape, Landscape | NetworkOutput):
        raise InputError(
            "verify needs the Landscape or the NetworkOutput that the certificate is about; received"
            f" {type(landscape).__name__}"
        )
    if isinstance(
        path_or_certificate, CellMinimum | Convexity | Connection | SpanningTree | MergeTree
    ):
        return _of_result(path_or_certificate, landscape, metric)
    if not isinstance(path_or_certificate, Certificate | str | os.PathLike):
        raise InputError(
            "verify needs a certificate, a result that claims something, or the path of its file;"
            f" received {type(path_or_certificate).__name__}"
        )
    if not isinstance(path_or_certificate, Certificate) and not os.path.exists(path_or_certificate):
        raise InputError(
            f"expected a certificate file; {str(path_or_certificate)!r} does not exist"
        )
    if not isinstance(path_or_certificate, Certificate) and is_netcdf(path_or_certificate):
        loaded = load_claim(path_or_certificate)
        if isinstance(loaded, str):
            return Verification(False, loaded)
        return _of_result(loaded, landscape, metric)
    _refuse_metric(metric, "a certificate")
    try:
        if isinstance(path_or_certificate, Certificate):
            certificate = Certificate(**fields_from_json(to_json(path_or_certificate)))
        else:
            certificate = Certificate.load(path_or_certificate)
    except InputError as error:
        return Verification(False, str(error))
    try:
        if isinstance(landscape, NetworkOutput):
            landscape = _landscape_around(certificate, landscape)
        _check_identity(certificate, landscape)
        numbers = arithmetic_called(certificate.arithmetic)
        with numbers.precision():
            if certificate.scope == "block":
                check_block(certificate, landscape, certificate.theta, numbers)
            else:
                check_landscape(certificate, landscape, numbers)
    except RejectedError as rejection:
        return Verification(False, str(rejection))
    if certificate.claim == "undecided":
        return Verification(True, "the certificate is intact; it claims nothing")
    return Verification(True, f"recomputed from network and data: {certificate.sentence()}")


def _refuse_metric(metric: object, what: str) -> None:
    """Only paths are about one."""
    if metric is not None:
        raise InputError(
            f"metric is for a Connection or a tree of them; received one with {what}: leave it out"
        )


def _of_result(
    found: Claim, landscape: Landscape | NetworkOutput, metric: str | Metric | Landscape | None
) -> Verification:
    """Check a result that claims something."""
    if not isinstance(found, Connection | SpanningTree):
        _refuse_metric(metric, f"a {type(found).__name__}")
    if isinstance(landscape, NetworkOutput):
        return Verification(False, "it is about a landscape, not about a network's output")
    if isinstance(found, Convexity):
        return check_convexity(found, landscape)
    if isinstance(found, Connection):
        return check_connection(found, landscape, metric)
    if isinstance(found, SpanningTree):
        return check_tree(found, landscape, metric)
    if isinstance(found, MergeTree):
        return _of_tree(found, landscape)
    if landscape.weight_decay > 0:
        return Verification(False, f"it is about no weight decay, not {landscape.weight_decay!r}")
    try:
        return check_minimum(found, landscape)
    except InputError as error:  # no such layer
        return Verification(False, str(error))


def _of_tree(found: MergeTree, landscape: Landscape) -> Verification:
    """Check a merge tree; it has to be about this landscape's samples."""
    try:
        told = check_merge_tree(found, landscape)
    except RejectedError as rejection:
        return Verification(False, str(rejection))
    return Verification(True, f"recomputed from network and data: {told}")


def load_claim(path: str | os.PathLike[str]) -> Claim | str:
    """What a file claims, or why there is nothing in it."""
    try:
        found = load_one_of(path, (CellMinimum, Convexity, Connection, SpanningTree, MergeTree))
    except InputError as error:
        return str(error)
    # Where someone has put other content under its own digest, readers fail anywhere, with any exception.
    except Exception as error:
        text = (str(error).splitlines() or [""])[0][:120]
        kinds = "a CellMinimum, a Convexity, a Connection, a SpanningTree or a MergeTree"
        return f"expected {kinds}; could not read {str(path)!r}: {text}"
    assert isinstance(found, CellMinimum | Convexity | Connection | SpanningTree | MergeTree)
    return found


def is_netcdf(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as HDF5 files do."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(HDF5)) == HDF5


#: First bytes of a NetCDF file.
HDF5 = b"\x89HDF\r\n\x1a\n"


def _landscape_around(certificate: Certificate, function: NetworkOutput) -> Landscape:
    """The landscape whose loss is the output, up to a constant, around the certified point."""
    require(certificate.scope == "block", "it is about a landscape, not about a network's output")
    try:
        found = function.around(certificate.theta).landscape
    except InputError as error:
        raise RejectedError(f"its point is none of this function: {error}") from error
    direction = certificate.direction
    if direction is not None and direction.shape == certificate.theta.shape:
        inward = function.inward(certificate.theta, direction)
        require(np.array_equal(inward, direction), "its direction leads out of the box")
    return found


#: Magnitude up to which products of numbers do not overflow.
LARGEST = 1e100

_NUMBERS = (
    "margin", "moved", "radius", "gradient_norm", "rest_norm", "curvature", "theta", "multipliers",
    "slopes", "cells", "shares", "direction",
)  # fmt: skip


def _check_identity(certificate: Certificate, landscape: Landscape) -> None:
    """The certificate is intact, and is about this network, data and loss."""
    require(certificate.format == FORMAT, f"format {certificate.format!r} is not {FORMAT}")
    require(certificate.claim in CLAIMS, f"unknown claim {certificate.claim!r}")
    for name in ("theta", "multipliers", "active_kinks", "direction"):
        value = getattr(certificate, name)
        require(value is None or value.ndim == 1, f"its {name} is not a plain list")
    given = certificate.multipliers.shape == certificate.active_kinks.shape
    require(given, "it does not give one multiplier per active kink")
    require(certificate.moved >= 0, "it has moved by a negative distance")
    for name in _NUMBERS:
        value = getattr(certificate, name)
        sound = value is None or (np.abs(value) <= LARGEST).all()
        require(sound, f"its {name} holds NaN, infinite or too large numbers to compute with")
    require(
        certificate.digest == digest_of(certificate),
        "its digest does not match its fields: it was changed after it was written",
    )
    require(
        certificate.loss == landscape.loss_name,
        f"it is about loss {certificate.loss!r}, not {landscape.loss_name!r}",
    )
    require(
        certificate.weight_decay == landscape.weight_decay,
        f"it is about weight decay {certificate.weight_decay!r}, not {landscape.weight_decay!r}",
    )
    require(
        certificate.network_hash == hash_network(landscape),
        "it is about another network: the weights differ",
    )
    require(
        certificate.data_hash == hash_data(landscape),
        "it is about other data: inputs or targets differ",
    )
    require(certificate.scope in SCOPES, f"unknown scope {certificate.scope!r}")
    require(
        certificate.arithmetic in ("float64", "rational"),
        f"unknown arithmetic {certificate.arithmetic!r}",
    )
    tier = "exact" if certificate.arithmetic == "rational" else "certified"
    require(
        certificate.tier == tier,
        f"{certificate.arithmetic} arithmetic gives tier {tier!r}, not {certificate.tier!r}",
    )
