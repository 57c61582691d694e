"""`verify` accepts what `certify` wrote and rejects whatever a forger makes of it.

A careless forger edits a field; a careful one also recomputes the certificate's digest, and puts in
the hashes of the network and data that the certificate shall seem to be about. Only recomputing the
mathematics stops the careful one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import BLOCKS, HARD, MINIMUM, PROBLEMS, WHOLE, Problem, refine
from torch import nn

import reluscape as rs
from reluscape.certificate import CLAIMS, Certificate, hash_data, hash_network
from reluscape.errors import InputError
from reluscape.proof import certify
from reluscape.verification import verify

BY_NAME = {problem.name: problem for problem in PROBLEMS}


def landscape_of(problem: Problem) -> rs.Landscape:
    return rs.Landscape(
        problem.module(),
        torch.as_tensor(problem.inputs),
        torch.as_tensor(problem.targets),
        loss=problem.loss,
        weight_decay=problem.decay,
    )


@cache
def landscape_named(name: str) -> rs.Landscape:
    return landscape_of(BY_NAME[name])


@cache
def certified(name: str, arithmetic: str = "float64") -> tuple[Certificate, rs.Landscape]:
    problem, landscape = BY_NAME[name], landscape_named(name)
    subject = landscape if problem.layer is None else landscape.block(problem.layer)
    return certify(subject, arithmetic=arithmetic), landscape


def changed(certificate: Certificate, **fields: object) -> Certificate:
    """Change fields and recompute the digest, as a careful forger would."""
    return dataclasses.replace(certificate, **fields).signed()


# --- what is true is accepted --------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_float64_certificates_are_accepted(problem: Problem, tmp_path: Path) -> None:
    certificate, landscape = certified(problem.name)
    answer = verify(certificate, landscape)
    assert answer.valid, answer.reason
    path = certificate.save(tmp_path / "certificate.json")
    answer = verify(path, landscape)
    assert answer.valid, answer.reason


@pytest.mark.parametrize("problem", BLOCKS + HARD, ids=lambda p: p.name)
def test_rational_certificates_are_accepted(problem: Problem, tmp_path: Path) -> None:
    certificate, landscape = certified(problem.name, "rational")
    answer = verify(certificate, landscape)
    assert answer.valid, answer.reason
    path = certificate.save(tmp_path / "certificate.json")
    answer = verify(str(path), landscape)
    assert answer.valid, answer.reason


def test_dependent_normals_of_very_different_lengths_are_split() -> None:
    """Least absolute deviations with three exact fits in two weights: 1e5, 1 and 1e-8 long."""
    model = torch.nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    inputs = np.array([[1e5, 2e5], [1, 2], [2e-8, -1e-8], [1, 0], [-3, 5], [2, 2]])
    targets = inputs.sum(axis=1) + np.array([0, 0, 0, 1, -2, 1])
    landscape = rs.Landscape(model, inputs, targets[:, None], loss="l1")
    certificate = rs.certify(landscape.block(0))
    assert certificate.claim == "not_stationary"
    assert len(certificate.active_kinks) == 3
    assert rs.verify(certificate, landscape).valid


def test_a_file_holds_the_whole_certificate(tmp_path: Path) -> None:
    for name in ("hinge saddle-squared", "valley strict_local_minimum 1-squared", "slope-l1"):
        certificate, _ = certified(name)
        again = Certificate.load(certificate.save(tmp_path / "certificate.json"))
        assert again.digest == certificate.digest == again.signed().digest
        for field in dataclasses.fields(Certificate):
            np.testing.assert_array_equal(
                getattr(again, field.name), getattr(certificate, field.name), err_msg=field.name
            )


# --- careful forgeries ---------------------------------------------------------------------------

STRICT = "hinges strict_local_minimum strict_local_minimum-squared"  # two active kinks, slopes > 0
VALLEY = "valley strict_local_minimum 1-squared"  # one active kink of two parameters, curvature
SADDLE = "hinge saddle-squared"
MOVING = "valley not_stationary 2-squared"  # rest is not zero
EDGE = "hinge not_stationary-l1"  # monotone across a kink
FLAT = "ridge-squared"  # a local minimum that is not strict
PLATEAU = "dead-squared"
OPEN = "opposite mixed-squared"

Forger = Callable[[Certificate], Certificate]


def flip_bit(index: int) -> Forger:
    """Flip one switching sign in the hexadecimal pattern."""

    def forge(certificate: Certificate) -> Certificate:
        data = bytearray.fromhex(certificate.pattern)
        data[index // 8] ^= 0x80 >> (index % 8)
        return changed(certificate, pattern=bytes(data).hex())

    return forge


def drop_kink(certificate: Certificate) -> Certificate:
    """Remove the first active kink with everything that belongs to it."""
    return changed(
        certificate,
        active_kinks=certificate.active_kinks[1:],
        multipliers=certificate.multipliers[1:],
        slopes=certificate.slopes[1:],
    )


def add_kink(certificate: Certificate) -> Certificate:
    """Add a kink that is not at zero, with multiplier and slopes zero."""
    spare = next(k for k in range(certificate.num_kinks) if k not in certificate.active_kinks)
    place = int(np.searchsorted(certificate.active_kinks, spare))
    return changed(
        certificate,
        active_kinks=np.insert(certificate.active_kinks, place, spare),
        multipliers=np.insert(certificate.multipliers, place, 0.0),
        slopes=np.insert(certificate.slopes, min(place, len(certificate.slopes)), 0.0, axis=0),
    )


def scale(field: str, factor: float) -> Forger:
    """Multiply a numeric field."""
    return lambda c: changed(c, **{field: getattr(c, field) * factor})


def put(**fields: object) -> Forger:
    """Replace fields by constants."""
    return lambda c: changed(c, **fields)


def nan_in(field: str) -> Forger:
    """Put a NaN into a number or the first entry of an array."""

    def forge(certificate: Certificate) -> Certificate:
        value = getattr(certificate, field)
        if isinstance(value, np.ndarray):
            poisoned = value.copy()
            poisoned.flat[0] = np.nan
            return changed(certificate, **{field: poisoned})
        return changed(certificate, **{field: float("nan")})

    return forge


FORGERIES: list[tuple[str, str, Forger]] = [
    *(("pattern bit", STRICT, flip_bit(k)) for k in range(8)),
    ("pattern shorter", STRICT, lambda c: changed(c, pattern=c.pattern[:-2])),
    ("pattern not hexadecimal", STRICT, put(pattern="zz")),
    ("multiplier sign", STRICT, lambda c: changed(c, multipliers=-c.multipliers)),
    ("multiplier size", VALLEY, scale("multipliers", 1.001)),
    ("multiplier missing", STRICT, lambda c: changed(c, multipliers=c.multipliers[:1])),
    ("slopes swapped", "hinge strict_local_minimum-squared",
     lambda c: changed(c, slopes=c.slopes[:, ::-1])),
    ("slopes raised", STRICT, scale("slopes", 2.0)),
    ("kink dropped", STRICT, drop_kink),
    ("kink dropped at a saddle", SADDLE, drop_kink),
    ("kink dropped in a valley", VALLEY, drop_kink),
    ("kink added", STRICT, add_kink),
    ("kink added to a slope", MOVING, add_kink),
    ("kinks out of order", STRICT, lambda c: changed(c, active_kinks=c.active_kinks[::-1])),
    ("kink number too large", STRICT, lambda c: changed(c, active_kinks=c.active_kinks + 1000)),
    ("kink number negative", SADDLE, lambda c: changed(c, active_kinks=c.active_kinks - 1000)),
    ("fewer kinks", STRICT, lambda c: changed(c, num_kinks=c.num_kinks - 1)),
    ("more kinks", STRICT, lambda c: changed(c, num_kinks=c.num_kinks + 1)),
    ("direction negated", SADDLE, lambda c: changed(c, direction=-c.direction)),
    ("direction negated, rest", MOVING, lambda c: changed(c, direction=-c.direction)),
    ("direction scaled", MOVING, scale("direction", 3.0)),
    ("direction zero", MOVING, scale("direction", 0.0)),
    ("direction removed", MOVING, put(direction=None)),
    ("direction given to a minimum", VALLEY, put(direction=np.array([1.0, 0.0]))),
    ("direction too long", MOVING, lambda c: changed(c, direction=np.append(c.direction, 0.0))),
    ("margin inflated", STRICT, scale("margin", 1.01)),
    ("margin inflated at a saddle", SADDLE, scale("margin", 1.01)),
    ("margin inflated on a slope", MOVING, scale("margin", 1.01)),
    ("margin negative", STRICT, scale("margin", -1.0)),
    ("curvature raised", VALLEY, scale("curvature", 1.01)),
    ("curvature removed", VALLEY, put(curvature=None)),
    ("point moved", VALLEY, lambda c: changed(c, theta=c.theta + 1e-3)),
    ("point slid along the kink", VALLEY, lambda c: changed(c, theta=c.theta + np.eye(2)[0] / 1e3)),
    ("point too long", VALLEY, lambda c: changed(c, theta=np.append(c.theta, 0.0))),
    ("gradient norm", MOVING, scale("gradient_norm", 0.5)),
    ("rest norm", MOVING, scale("rest_norm", 0.5)),
    ("rest hidden", MOVING, put(rest_norm=0.0)),
    ("loss", STRICT, put(loss="half_squared")),
    ("loss unknown", STRICT, put(loss="huber")),
    ("weight decay", STRICT, put(weight_decay=0.1)),
    ("other layer", STRICT, put(layer="2")),
    ("no such layer", STRICT, put(layer="nowhere")),
    ("scope", STRICT, put(scope="landscape")),
    ("scope unknown", STRICT, put(scope="galaxy")),
    ("network hash", STRICT, put(network_hash="0" * 64)),
    ("data hash", STRICT, put(data_hash="0" * 64)),
    ("tier upgraded", STRICT, put(tier="exact")),
    ("arithmetic upgraded", STRICT, put(arithmetic="rational", tier="exact")),
    ("arithmetic upgraded with a point", STRICT,
     lambda c: changed(c, arithmetic="rational", tier="exact", exact_theta=("1", "1"),
                       exact_multipliers=("1", "1"))),
    ("arithmetic unknown", STRICT, put(arithmetic="float128")),
    ("format", STRICT, put(format=99)),
    ("undecided upgraded", OPEN, put(claim="strict_local_minimum")),
    ("undecided upgraded to a saddle", OPEN, put(claim="saddle")),
    ("claim unknown", STRICT, put(claim="global_minimum")),
    *((f"NaN in {field}", MOVING, nan_in(field))
      for field in ("theta", "margin", "direction", "gradient_norm", "rest_norm", "multipliers",
                    "slopes", "moved")),
    ("NaN in curvature", VALLEY, nan_in("curvature")),
]  # fmt: skip


@pytest.mark.parametrize(("what", "name", "forge"), FORGERIES, ids=[f[0] for f in FORGERIES])
def test_careful_forgeries_are_rejected(what: str, name: str, forge: Forger) -> None:
    certificate, landscape = certified(name)
    if what.startswith("NaN in") and np.size(getattr(certificate, what.split()[-1])) == 0:
        certificate = dataclasses.replace(certificate, slopes=np.zeros((1, 2)))
    forged = forge(certificate)
    answer = verify(forged, landscape)
    assert not answer.valid
    assert answer.reason


@pytest.mark.parametrize("name", [p.name for p in [*BLOCKS[::8], *WHOLE]])
def test_no_false_claim_is_accepted(name: str) -> None:
    certificate, landscape = certified(name)
    problem = BY_NAME[name]
    true = {certificate.claim, "undecided"} | problem.claims
    if problem.claims & (MINIMUM | {"plateau"}):
        true = true | {"local_minimum"}  # weaker, but no lie
    for claim in CLAIMS:
        if claim not in true:
            forged = changed(certificate, claim=claim)
            assert not verify(forged, landscape).valid, claim
            bare = changed(certificate, claim=claim, direction=None, margin=0.0, curvature=None)
            assert not verify(bare, landscape).valid, claim


def test_the_exact_point_and_multipliers_are_checked() -> None:
    for name in (STRICT, VALLEY):
        certificate, landscape = certified(name, "rational")
        assert certificate.exact_theta
        assert verify(certificate, landscape).valid
        shifted = ("1/3", *certificate.exact_theta[1:])
        wrong = ("7/5", *certificate.exact_multipliers[1:])
        nearby = str(Fraction(certificate.exact_theta[0]) + Fraction(1, 10**40))
        for fields in (
            {"exact_theta": shifted},
            {"exact_theta": (nearby, *certificate.exact_theta[1:])},  # the same float64
            {"exact_theta": ()},
            {"exact_theta": ("one", *certificate.exact_theta[1:])},
            {"exact_theta": ("1/0", *certificate.exact_theta[1:])},
            {"exact_multipliers": wrong},
            {"exact_multipliers": ()},
            {"arithmetic": "float64"},
            {"arithmetic": "float64", "tier": "certified"},
            {"tier": "certified"},
            {"claim": "saddle"},
            {"margin": certificate.margin * 1.1},
        ):
            assert not verify(changed(certificate, **fields), landscape).valid, fields


# --- certificates of one thing, passed off as another's ------------------------------------------


@cache
def other_landscapes() -> dict[str, rs.Landscape]:
    """The landscape of STRICT with one thing changed, most of them with another truth."""
    base = BY_NAME[STRICT]
    inputs, targets = base.inputs.copy(), base.targets.copy()
    inputs[1] *= 1.5
    targets[0] = 10.0
    order = [1, 0, 2, 3]
    first, second, third = base.layers
    return {
        "sample": landscape_of(refine(base, inputs=inputs)),
        "target": landscape_of(refine(base, targets=targets)),
        "order": landscape_of(
            refine(base, inputs=base.inputs[order], targets=base.targets[order])
        ),
        "fewer samples": landscape_of(
            refine(base, inputs=base.inputs[:3], targets=base.targets[:3])
        ),
        "fixed weight": landscape_of(
            refine(base, layers=[first, ([[-1.0]], [4.5]), third])
        ),
        "output weight": landscape_of(refine(base, layers=[first, second, ([[-1.0]], None)])),
        "own weight": landscape_of(
            refine(base, layers=[([[1.0, 1.25]], None), second, third])
        ),
        "loss": landscape_of(refine(base, loss="half_squared")),
        "decay": landscape_of(refine(base, decay=0.5)),
        "slope": landscape_of(refine(base, slope=0.5)),
    }  # fmt: skip


@pytest.mark.parametrize("what", list(other_landscapes()))
def test_another_landscape_is_rejected(what: str) -> None:
    certificate, _ = certified(STRICT)
    assert not verify(certificate, other_landscapes()[what]).valid


@pytest.mark.parametrize("what", ["sample", "target", "order", "fixed weight", "output weight",
                                  "slope", "fewer samples"])  # fmt: skip
def test_borrowed_hashes_do_not_help(what: str) -> None:
    """The truth differs there (or, for "order", the kinks' numbers), so recomputing shows it."""
    certificate, _ = certified(STRICT)
    other = other_landscapes()[what]
    forged = changed(certificate, network_hash=hash_network(other), data_hash=hash_data(other))
    assert not verify(forged, other).valid


def test_certificates_are_not_exchangeable() -> None:
    """A certificate with another problem's hashes is valid only if that problem has its claim."""
    names = [
        p.name for p in BLOCKS if p.name.startswith(("hinge", "valley")) and p.loss == "squared"
    ]
    for mine in names:
        for other in names:
            certificate, _ = certified(mine)
            wanted, landscape = certified(other)
            if certificate.claim in BY_NAME[other].claims | {"undecided"}:
                continue
            if wanted.claim in MINIMUM and certificate.claim in MINIMUM:
                continue
            forged = changed(
                certificate,
                network_hash=hash_network(landscape),
                data_hash=hash_data(landscape),
            )
            assert not verify(forged, landscape).valid, (mine, other)


# --- careless forgeries: files -------------------------------------------------------------------


def edited(certificate: Certificate, path: Path, **fields: object) -> Path:
    """Write the certificate with fields of its JSON replaced and its digest left alone."""
    certificate.save(path)
    record = json.loads(path.read_text())
    record.update(fields)
    path.write_text(json.dumps(record))
    return path


def test_every_edited_field_is_noticed(tmp_path: Path) -> None:
    certificate, landscape = certified(VALLEY)
    record = json.loads(certificate.save(tmp_path / "whole.json").read_text())
    other: dict[type, Callable[[object], object]] = {
        str: lambda value: f"{value}x",
        float: lambda value: value + 1e-9 if value else 1e-9,
        int: lambda value: value + 1,
        list: lambda value: [*value, *value] if value else [1.0],
        type(None): lambda value: [1.0, 0.0],
    }
    assert set(record) == {field.name for field in dataclasses.fields(Certificate)}
    for name, value in record.items():
        path = edited(certificate, tmp_path / f"{name}.json", **{name: other[type(value)](value)})
        answer = verify(path, landscape)
        assert not answer.valid, name


def test_damaged_files_are_rejected(tmp_path: Path) -> None:
    certificate, landscape = certified(STRICT)
    whole = certificate.save(tmp_path / "certificate.json").read_text()
    record = json.loads(whole)
    del record["slopes"]
    texts = {
        "truncated": whole[: len(whole) // 2],
        "empty": "",
        "list": "[]",
        "number": "3",
        "missing field": json.dumps(record),
        "extra field": json.dumps({**json.loads(whole), "note": "trust me"}),
        "NaN": whole.replace('"margin": ', '"margin": NaN, "old_margin": '),
        "NaN alone": json.dumps({**json.loads(whole), "margin": float("nan")}),
        "infinite": json.dumps({**json.loads(whole), "gradient_norm": float("inf")}),
        "null point": json.dumps({**json.loads(whole), "theta": None}),
        "number for a point": json.dumps({**json.loads(whole), "theta": 3}),
        "number for a direction": json.dumps({**json.loads(whole), "direction": 3}),
        "rows for multipliers": json.dumps({**json.loads(whole), "multipliers": [[1.0, 2.0]]}),
        "text in point": json.dumps({**json.loads(whole), "theta": ["a", "b"]}),
        "nested point": json.dumps({**json.loads(whole), "theta": [[1.0], [1.0, 2.0]]}),
        "slopes not in pairs": json.dumps({**json.loads(whole), "slopes": [1.0, 2.0, 3.0]}),
        "null kinks": json.dumps({**json.loads(whole), "active_kinks": None}),
        "null pattern": json.dumps({**json.loads(whole), "pattern": None}),
        "null multipliers": json.dumps({**json.loads(whole), "multipliers": None}),
        "text for a count": json.dumps({**json.loads(whole), "num_kinks": "many"}),
        "null exact point": json.dumps({**json.loads(whole), "exact_theta": None}),
        "huge kink": json.dumps({**json.loads(whole), "active_kinks": [10**30]}),
        "nested": "[" * 100_000,
        "nested field": whole.replace('"theta": [', '"theta": ' + "[" * 480 + "]" * 479 + ", [", 1),
    }
    for what, text in texts.items():
        path = tmp_path / f"{what}.json"
        path.write_text(text)
        answer = verify(path, landscape)
        assert not answer.valid, what
        assert "\n" not in answer.reason, what
    binary = tmp_path / "binary.json"
    binary.write_bytes(bytes(range(256)))
    assert not verify(binary, landscape).valid


def test_a_missing_file_is_the_callers_mistake(tmp_path: Path) -> None:
    _, landscape = certified(STRICT)
    with pytest.raises(InputError, match="does not exist"):
        verify(tmp_path / "nowhere.json", landscape)


def test_object_and_file_forgeries_agree(tmp_path: Path) -> None:
    """A forged object is still rejected after a round trip through a file."""
    certificate, landscape = certified(SADDLE)
    forged = changed(certificate, claim="strict_local_minimum", direction=None)
    path = forged.save(tmp_path / "forged.json")
    assert not verify(path, landscape).valid
    assert not verify(Certificate.load(path), landscape).valid


def test_a_certificate_is_one_line_and_always_draws() -> None:
    """Fields of thousands of characters are left off; a plot shows something whatever the evidence."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    inputs = np.array([[1.0], [1.0], [1.0]])
    landscape = rs.Landscape(model, inputs, np.zeros((3, 1)), loss="l1")
    found = rs.certify(landscape.block(0))
    assert found.claim == "strict_local_minimum"
    assert len(repr(found)) < 2000
    assert "\n" not in repr(found)
    drawn = found.plot()
    assert len(drawn.data) == len(found.cells) == 1
    np.testing.assert_array_equal(drawn.data[0].y, found.cells[0])
    assert rs.certify(landscape).plot().layout.annotations
