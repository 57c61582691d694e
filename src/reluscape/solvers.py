"""Linear programs: the only place that talks to HiGHS.

A solver proposes; what it proposes is checked elsewhere. Bounds are always explicit: variables are
free unless a box is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import highspy
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from reluscape.errors import AnalysisError

Floats = NDArray[np.float64]
Status = Literal["optimal", "infeasible", "unbounded"]

_STATUS: dict[highspy.HighsModelStatus, Status] = {
    highspy.HighsModelStatus.kOptimal: "optimal",
    highspy.HighsModelStatus.kInfeasible: "infeasible",
    highspy.HighsModelStatus.kUnbounded: "unbounded",
}

#: Simplex iterations, for each row and column of a program, after which it is solved afresh.
ITERATIONS = 50


@dataclass(frozen=True, slots=True)
class Solution:
    """Outcome of a linear program: status, value, point and one multiplier per row.

    For `minimise c.x` subject to `A x >= b`, the multipliers y >= 0 satisfy `c = A^T y` up to the box.
    `value` is NaN and the arrays are empty unless the status is "optimal".
    """

    status: Status
    value: float
    point: Floats
    multipliers: Floats


class LinearProgram:
    """`minimise c.x  subject to  A x >= b,  |x_j| <= box_j`, solved again and again as rows come and go.

    Args:
        matrix: A, shape (rows, variables), dense or sparse.
        lower: b, shape (rows,).
        box: Half-widths of the variables' box; infinite entries leave a variable free.
        upper: Optional upper sides of the rows (equalities where equal to `lower`).
        least: Optional lower sides of the variables in place of `-box`.
        interior: Solve by an interior point method, for large programs solved once; the solution is then
            not a vertex.
    """

    def __init__(
        self,
        matrix: Floats | csr_array,
        lower: Floats,
        box: Floats,
        upper: Floats | None = None,
        *,
        least: Floats | None = None,
        interior: bool = False,
    ) -> None:
        self._highs: Any = highspy.Highs()  # type: ignore[no-untyped-call]
        self._highs.setOptionValue("output_flag", False)
        self._highs.setOptionValue("threads", 1)
        for name in ("primal_feasibility_tolerance", "dual_feasibility_tolerance"):
            self._highs.setOptionValue(name, 1e-9)
        self._highs.setOptionValue("simplex_iteration_limit", ITERATIONS * (len(lower) + len(box)))
        self._interior = interior
        if interior:
            self._highs.setOptionValue("solver", "ipm")
            self._highs.setOptionValue("run_crossover", "off")
        columns = len(box)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = columns, len(lower)
        lp.col_cost_ = np.zeros(columns)
        lp.col_lower_, lp.col_upper_ = -box if least is None else least, box
        lp.row_lower_ = lower
        lp.row_upper_ = np.full(len(lower), np.inf) if upper is None else upper
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        rows = csr_array(matrix)
        lp.a_matrix_.start_, lp.a_matrix_.index_ = rows.indptr, rows.indices
        lp.a_matrix_.value_ = rows.data
        self._highs.passModel(lp)
        self._columns = np.arange(columns, dtype=np.int32)

    def add_row(self, row: Floats, lower: float) -> None:
        """Append the constraint `row . x >= lower`."""
        self._highs.addRow(lower, highspy.kHighsInf, len(row), self._columns, row)

    def add_rows(self, matrix: Floats, lower: Floats) -> None:
        """Append the constraints `matrix @ x >= lower`."""
        rows, columns = matrix.shape
        starts = np.arange(rows, dtype=np.int32) * columns
        every = np.tile(self._columns, rows)
        most = np.full(rows, highspy.kHighsInf)
        self._highs.addRows(rows, lower, most, matrix.size, starts, every, matrix.ravel())

    def drop_last_row(self) -> None:
        """Remove the constraint added last."""
        last = self._highs.getNumRow() - 1
        self._highs.deleteRows(1, np.array([last], dtype=np.int32))

    def set_lower(self, first: int, lower: Floats) -> None:
        """Give the rows from `first` on new lower and no upper sides."""
        rows = np.arange(first, first + len(lower), dtype=np.int32)
        self._highs.changeRowsBounds(len(rows), rows, lower, np.full(len(rows), highspy.kHighsInf))

    def set_box(self, least: Floats, most: Floats) -> None:
        """Give the variables new sides."""
        self._highs.changeColsBounds(len(most), self._columns, least, most)

    def fix(self, columns: NDArray[np.bool_], values: Floats, box: Floats) -> None:
        """Hold the marked variables at their values and give the others their box."""
        least, most = np.where(columns, values, -box), np.where(columns, values, box)
        self._highs.changeColsBounds(len(box), self._columns, least, most)

    def _run(self) -> Any:
        """Solve as the model stands and return HiGHS's status."""
        self._highs.run()
        return self._highs.getModelStatus()

    def minimise(self, objective: Floats) -> Solution:
        """Solve for `objective`, warm from the last basis.

        Raises:
            AnalysisError: The solver broke down; the message carries its status.
        """
        self._highs.changeColsCost(len(objective), self._columns, objective)
        status = self._run()
        for option, choice in (("presolve", "off"), ("solver", "ipm")):
            if status in _STATUS or self._interior:
                break
            # a warm start can stall or cycle, and presolve may not tell infeasible from unbounded
            self._highs.clearSolver()
            self._highs.setOptionValue(option, choice)
            status = self._run()
        if status not in _STATUS:
            raise AnalysisError(
                "linear program must end optimal, infeasible or unbounded; HiGHS ended with"
                f" {status}: rescale the data (--standardise)"
            )
        if _STATUS[status] != "optimal":
            return Solution(_STATUS[status], float("nan"), np.empty(0), np.empty(0))
        solution = self._highs.getSolution()
        value = float(self._highs.getInfo().objective_function_value)
        return Solution("optimal", value, np.array(solution.col_value), np.array(solution.row_dual))
