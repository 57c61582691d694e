"""Genuine minima of activation cells: `find` answers, `check` verifies without a solver."""
