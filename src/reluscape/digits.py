"""Numbers of few digits that err on the side that is still true, taken as `repr` writes them."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context

__all__ = ["rounded_down", "rounded_up"]


def rounded_down(value: float, digits: int = 6) -> float:
    """The largest number of so many significant digits that is at most the value: of a lower bound."""
    return float(Context(prec=digits, rounding=ROUND_FLOOR).create_decimal(repr(float(value))))


def rounded_up(value: float, digits: int = 6) -> float:
    """The smallest number of so many significant digits that is at least the value: of what suffices."""
    return float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(float(value))))
