"""What every page must hold to in a browser."""

from __future__ import annotations

from typing import Any


def assert_nothing_overflows(page: Any, width: int) -> None:
    inside = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert page.evaluate(inside) == [width, width]
    too_wide = "[...document.querySelectorAll('.plot svg.main-svg')].map(p => p.clientWidth)"
    assert max(page.evaluate(too_wide)) <= width
