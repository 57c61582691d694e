"""Where the losses of single samples change their polynomials: one hidden layer, all layers moving.

On a segment the switching values are affine in t, so that a residual is a quadratic of t between two
kinks of its sample, its square a quartic, and its size a quadratic between its roots.
"""

from __future__ import annotations

import numpy as np

from reluscape.compiled import bare, counted
from reluscape.strings.sweep import QUARTIC, add

_EPS = float(np.finfo(np.float64).eps)


@bare
def _product(first, last, v0, v1, out):
    """Coefficients, by powers of t, of the product of two affine functions given at 0 and 1."""
    out[0] = v0 * first
    out[1] = v0 * (last - first) + (v1 - v0) * first
    out[2] = (v1 - v0) * (last - first)


@bare
def _add_product(first, second, out):
    """Add the product of two quadratics to a quartic."""
    for j in range(3):
        for k in range(3):
            out[j + k] += first[j] * second[k]


@bare
def _size(poly):
    """Sum of the coefficients' sizes: no value on [0, 1] is larger."""
    return abs(poly[0]) + abs(poly[1]) + abs(poly[2])


@bare
def _cut_at_roots(poly, left, right, cuts):
    """Ends of the parts of an interval between a quadratic's roots, into `cuts`; number of parts."""
    c, b, a = poly[0], poly[1], poly[2]
    cuts[0], parts = left, 1
    square = b * b - 4.0 * a * c
    if square >= 0.0:
        half = -0.5 * (b + np.copysign(np.sqrt(square), b))
        low = half / a if a != 0.0 else np.inf
        high = c / half if half != 0.0 else np.inf
        if low > high:
            low, high = high, low
        for root in (low, high):
            if cuts[parts - 1] < root < right:
                cuts[parts] = root
                parts += 1
    cuts[parts] = right
    return parts


@bare
def _turn_residuals(residuals, signs, left, right, cuts, times, changes, event):
    """Events of the L1 loss on a piece on which the residuals are quadratics; number of the next."""
    for o in range(len(residuals)):
        poly = residuals[o]
        parts = _cut_at_roots(poly, left, right, cuts)
        for part in range(parts):
            t = 0.5 * (cuts[part] + cuts[part + 1])
            sign = 1.0 if poly[0] + t * (poly[1] + t * poly[2]) > 0.0 else -1.0
            if sign != signs[o]:
                signs[o] = sign
                times[event] = cuts[part]
                for k in range(3):
                    changes[event, k] = 2.0 * sign * poly[k]
                event += 1
    return event


@bare
def _first_residuals(z, weights, biases, target, factors, residuals, drift):
    """Residuals right of t = 0, and bounds on their rounding errors."""
    term = residuals[-1]  # room
    for o in range(len(target)):
        poly, size = residuals[o], abs(biases[0, o]) + abs(biases[1, o]) + abs(target[o])
        poly[0], poly[1], poly[2] = biases[0, o] - target[o], biases[1, o] - biases[0, o], 0.0
        for k in range(len(factors)):
            _product(z[0, k], z[1, k], weights[0, o, k], weights[1, o, k], term)
            for j in range(3):
                poly[j] += factors[k] * term[j]
            size += (
                2.0
                * (abs(weights[0, o, k]) + abs(weights[1, o, k]))
                * (abs(z[0, k]) + abs(z[1, k]))
            )
        drift[o] = (len(factors) + 8.0) * _EPS * size


@bare
def _turn_unit(z, weights, k, jump, residuals, signs, absolute, drift, change):
    """Pass a kink of unit k: the change of the sample's loss, and a bound on what rounding does to it."""
    delta, slack = residuals[-1], 0.0  # room
    for o in range(len(drift)):
        poly = residuals[o]
        _product(jump * z[0, k], jump * z[1, k], weights[0, o, k], weights[1, o, k], delta)
        if absolute:
            for j in range(3):
                change[j] += signs[o] * delta[j]
        slack += 16.0 * _EPS * _size(delta) * (1.0 if absolute else _size(poly) + _size(delta))
        for j in range(3):
            poly[j] += 0.5 * delta[j]
        if not absolute:  # (r + d)^2 - r^2 = 2 d (r + d / 2)
            for i in range(3):
                for j in range(3):
                    change[i + j] += 2.0 * delta[i] * poly[j]
        for j in range(3):
            poly[j] += 0.5 * delta[j]
        drift[o] += 8.0 * _EPS * (_size(delta) + _size(poly))
    return slack


@counted
def events_of(z, weights, biases, targets, slope, absolute):
    """All changes of the samples' losses along a segment.

    Args:
        z: Switching values at both ends (2, samples, units).
        weights: Output weights there (2, outputs, units).
        biases: Output biases there (2, outputs).
        targets: Targets (samples, outputs).
        slope: The rectifier's slope left of zero.
        absolute: Whether losses are sums of sizes of residuals, or of their squares.

    Returns:
        Sum of all losses at t = 0 by powers of t, as two terms (2, 5); positions of the changes
        (events,); what they add (events, 5); bounds on the residuals' errors (samples, outputs); on
        that of any sum.
    """
    samples, units, outputs = z.shape[1], z.shape[2], targets.shape[1]
    kinks = 0
    for i in range(samples):
        for k in range(units):
            kinks += z[0, i, k] < 0.0 < z[1, i, k] or z[1, i, k] < 0.0 < z[0, i, k]
    most = kinks + (3 * outputs * (kinks + samples) if absolute else 0)
    times, changes = np.zeros(most), np.zeros((most, QUARTIC))
    start, drift, own = np.zeros((2, QUARTIC)), np.zeros((samples, outputs)), np.zeros(QUARTIC)
    residuals, signs, cuts = np.zeros((outputs + 1, 3)), np.ones(outputs), np.zeros(4)
    factors, turns, who = np.ones(units), np.empty(units), np.empty(units, dtype=np.intp)
    event, slack = 0, 0.0
    for i in range(samples):
        met = 0
        for k in range(units):
            here, there = z[0, i, k], z[1, i, k]
            factors[k] = 1.0 if here > 0.0 or (here == 0.0 and there > 0.0) else slope
            if here < 0.0 < there or there < 0.0 < here:
                turns[met], who[met] = here / (here - there), k
                met += 1
        _first_residuals(z[:, i], weights, biases, targets[i], factors, residuals, drift[i])
        signs[:], own[:] = 1.0, 0.0
        for o in range(outputs):
            if absolute:
                own[:3] += residuals[o]
            else:
                _add_product(residuals[o], residuals[o], own)
            slack += 16.0 * _EPS * _size(residuals[o]) * (1.0 if absolute else _size(residuals[o]))
        for j in range(QUARTIC):
            start[0, j], start[1, j] = add(start[0, j], start[1, j], own[j])
        order, left = np.argsort(turns[:met]), 0.0
        for place in order:
            t, k = turns[place], who[place]
            if absolute:
                event = _turn_residuals(residuals[:-1], signs, left, t, cuts, times, changes, event)
            jump = (1.0 - slope) * (1.0 if z[1, i, k] > 0.0 else -1.0)
            times[event] = left = t
            slack += _turn_unit(
                z[:, i], weights, k, jump, residuals, signs, absolute, drift[i], changes[event]
            )
            event += 1
        if absolute:
            event = _turn_residuals(residuals[:-1], signs, left, 1.0, cuts, times, changes, event)
    return start, times[:event], changes[:event], drift, slack
