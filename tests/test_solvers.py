"""Linear programs against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from reluscape.solvers import LinearProgram, Solution

STATUS = {0: "optimal", 2: "infeasible", 3: "unbounded"}


def scipys(objective, matrix, lower, box, upper=None):
    """Status and value of `min c.x, lower <= A x <= upper, |x| <= box` by SciPy."""
    bounds = [(None, None) if np.isinf(side) else (-side, side) for side in box]
    rows, sides = -matrix, -lower
    if upper is not None:
        closed = np.isfinite(upper)
        rows, sides = np.vstack([rows, matrix[closed]]), np.append(sides, upper[closed])
    answer = linprog(objective, A_ub=rows, b_ub=sides, bounds=bounds, method="highs-ds")
    if answer.status in (2, 4):  # presolve may not tell infeasible from unbounded: ask without cost
        feasible = linprog(np.zeros(len(box)), A_ub=rows, b_ub=sides, bounds=bounds)
        return ("unbounded", None) if feasible.status == 0 else ("infeasible", None)
    return STATUS[answer.status], answer.fun


def random_program(seed):
    rng = np.random.default_rng(seed)
    variables, rows = int(rng.integers(1, 6)), int(rng.integers(1, 12))
    matrix, lower = rng.normal(size=(rows, variables)), rng.normal(size=rows) - 0.5
    box = np.where(rng.random(variables) < 0.5, np.inf, 3.0 * rng.random(variables))
    return rng.normal(size=variables), matrix, lower, box


def test_random_programs_end_as_scipys_do():
    seen = dict.fromkeys(STATUS.values(), 0)
    for seed in range(200):
        objective, matrix, lower, box = random_program(seed)
        solution = LinearProgram(matrix, lower, box).minimise(objective)
        status, value = scipys(objective, matrix, lower, box)
        assert solution.status == status, seed
        seen[status] += 1
        if status != "optimal":
            assert np.isnan(solution.value)
            assert solution.point.size == solution.multipliers.size == 0
            continue
        assert solution.value == pytest.approx(value, rel=1e-7, abs=1e-7)
        assert objective @ solution.point == pytest.approx(solution.value, rel=1e-9, abs=1e-9)
        assert (matrix @ solution.point >= lower - 1e-7).all()
        assert (np.abs(solution.point) <= box + 1e-7).all()
    assert min(seen.values()) >= 15


def test_multipliers_prove_the_value_where_the_variables_are_free():
    proved = 0
    for seed in range(100):
        objective, matrix, lower, box = random_program(seed)
        solution = LinearProgram(matrix, lower, np.full(len(box), np.inf)).minimise(objective)
        if solution.status == "optimal":
            proved += 1
            assert (solution.multipliers >= -1e-9).all()
            np.testing.assert_allclose(matrix.T @ solution.multipliers, objective, atol=1e-8)
            assert lower @ solution.multipliers == pytest.approx(solution.value, abs=1e-7)
    assert proved >= 5


@pytest.mark.parametrize("seed", range(20))
def test_upper_sides_and_equalities(seed):
    objective, matrix, lower, _ = random_program(seed)
    box = np.full(len(objective), 4.0)
    upper = lower + np.random.default_rng(seed).choice([0.0, 1.0, np.inf], size=len(lower))
    solution = LinearProgram(matrix, lower, box, upper).minimise(objective)
    status, value = scipys(objective, matrix, lower, box, upper)
    assert solution.status == status
    if status == "optimal":
        assert solution.value == pytest.approx(value, abs=1e-6)
        assert (matrix @ solution.point <= upper + 1e-7).all()


def test_rows_come_and_go():
    objective, box = np.array([1.0, 1.0]), np.full(2, np.inf)
    program = LinearProgram(np.eye(2), np.array([1.0, 2.0]), box)
    assert program.minimise(objective).value == pytest.approx(3.0)
    program.add_row(np.array([1.0, 0.0]), 5.0)
    assert program.minimise(objective).value == pytest.approx(7.0)
    program.add_row(np.array([-1.0, 0.0]), -4.0)  # x <= 4 against x >= 5
    assert program.minimise(objective).status == "infeasible"
    program.drop_last_row()
    assert program.minimise(objective).value == pytest.approx(7.0)
    program.drop_last_row()
    np.testing.assert_allclose(program.minimise(objective).point, [1.0, 2.0])
    assert program.minimise(-objective).status == "unbounded"
    program.add_row(np.array([-1.0, -1.0]), -10.0)
    assert program.minimise(-objective).value == pytest.approx(-10.0)


@pytest.mark.parametrize("seed", range(15))
def test_a_grown_program_is_the_one_built_whole(seed):
    objective, matrix, lower, _ = random_program(seed)
    box = np.full(len(objective), 5.0)
    program = LinearProgram(matrix[:1], lower[:1], box)
    for row, side in zip(matrix[1:], lower[1:], strict=True):
        program.minimise(objective)
        program.add_row(row, side)
    grown, whole = (
        program.minimise(objective),
        LinearProgram(matrix, lower, box).minimise(objective),
    )
    assert grown.status == whole.status
    if whole.status == "optimal":
        assert grown.value == pytest.approx(whole.value, abs=1e-8)
        assert grown.multipliers.shape == lower.shape


def test_a_program_without_rows():
    free = LinearProgram(np.empty((0, 2)), np.empty(0), np.full(2, np.inf))
    assert free.minimise(np.array([1.0, 0.0])).status == "unbounded"
    assert free.minimise(np.zeros(2)).status == "optimal"
    boxed = LinearProgram(np.empty((0, 2)), np.empty(0), np.array([2.0, 3.0]))
    assert boxed.minimise(np.array([1.0, -1.0])).value == pytest.approx(-5.0)


def test_solving_prints_nothing_and_leaves_its_arguments_alone(capfd):
    objective, matrix, lower, box = random_program(0)
    copies = [value.copy() for value in (objective, matrix, lower, box)]
    assert isinstance(LinearProgram(matrix, lower, box).minimise(objective), Solution)
    for value, copy in zip((objective, matrix, lower, box), copies, strict=True):
        np.testing.assert_array_equal(value, copy)
    assert capfd.readouterr() == ("", "")
