"""How a merge tree is known."""

from __future__ import annotations

__all__ = ["tier_of"]


def tier_of(arithmetic: str, num_failed: int) -> str:
    """Exact in rational arithmetic, certified in float64, "sampled" where least losses are not proved."""
    if arithmetic == "rational":
        return "exact"
    return "sampled" if num_failed else "certified"
