"""What every page must hold to in a browser."""

from __future__ import annotations

from typing import Any


def assert_nothing_overflows(page: Any, width: int) -> None:
    inside = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert page.evaluate(inside) == [width, width]
    too_wide = "[...document.querySelectorAll('.plot svg.main-svg')].map(p => p.clientWidth)"
    assert max(page.evaluate(too_wide)) <= width


def assert_nothing_is_cut(page: Any) -> None:
    """Tables, commands and the texts of figures are as wide as what shows them, or less."""
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    boxes = (
        "[...document.querySelectorAll('.scroll, pre')].filter(e => e.scrollWidth > e.clientWidth)"
    )
    assert page.evaluate(f"{boxes}.map(e => e.innerText.slice(0, 80))") == []
    texts = """[...document.querySelectorAll('.plot')].flatMap(plot => {
        const whole = plot.getBoundingClientRect();
        return [...plot.querySelectorAll('text')].filter(text => {
            const box = text.getBoundingClientRect();
            return box.width && (box.left < whole.left - 1 || box.right > whole.right + 1);
        }).map(text => text.textContent);
    })"""
    assert page.evaluate(texts) == []
