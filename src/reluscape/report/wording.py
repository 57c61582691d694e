"""Numbers and verdicts in words, for the report and the terminal.

A verdict is worded as its certificate says it and no further: "local" stays local, a layer's
verdict names the layer, and what is not decided is called so.
"""

import math
from collections.abc import Sequence
from typing import Protocol

THIN = "\N{NARROW NO-BREAK SPACE}"
NO_BREAK = "\N{NO-BREAK SPACE}"
NONE = "\N{EN DASH}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

PHRASES = {
    "strict_local_minimum": "at a strict local minimum",
    "local_minimum": "at a local minimum, not shown to be strict",
    "not_stationary": "on a slope",
    "saddle": "at a saddle",
    "plateau": "on a plateau",
    "undecided": "undecided",
}
_SENTENCES = {
    "strict_local_minimum": (
        "Training stopped at a strict local minimum: every small enough change raises the loss."
    ),
    "local_minimum": (
        "Training stopped at a local minimum: no small enough change lowers the loss; "
        "some may leave it as it is."
    ),
    "not_stationary": (
        "Training stopped on a slope: the certificate names a direction in which the loss "
        "still falls, and the gradient norm is {norm}."
    ),
    "saddle": (
        "Training stopped at a saddle: the slope vanishes, yet the certificate names a "
        "direction in which the loss falls."
    ),
    "plateau": "Training stopped on a plateau: the loss is constant around the point.",
    "undecided": "Where training stopped is undecided.",
}


class VerdictLike(Protocol):
    """What the wording needs to know of a verdict."""

    @property
    def claim(self) -> str:
        """The certificate's claim."""

    @property
    def tier(self) -> str:
        """The certificate's tier."""

    @property
    def reason(self) -> str:
        """The certificate's own sentence."""

    @property
    def gradient_norm(self) -> float | None:
        """Norm of the gradient at the certified point."""

    @property
    def moved(self) -> float | None:
        """Distance from the surveyed weights to the certified point."""


def number(value: float | None, digits: int = 3) -> str:
    """A number with three significant digits, powers of ten as ``1.23 × 10⁻⁴``."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -4 < power < 5:
        plain = f"{float(f'{mantissa}e{power}'):.{max(digits - 1 - power, 0)}f}"
        return _minus(_grouped(plain))
    raised = str(power).translate(_SUPERSCRIPTS)
    return _minus(f"{mantissa}{THIN}×{THIN}10{raised}")


def count(value: int | None) -> str:
    """A whole number with its thousands apart."""
    return NONE if value is None else _minus(_grouped(str(value)))


def share(value: float | None) -> str:
    """A fraction as a percentage; never rounded to 0 or 100 % unless it is exactly that."""
    if value is None or math.isnan(value):
        return NONE
    if 0 < value < 0.001:
        return f"<{THIN}0.1{THIN}%"
    if 0.999 < value < 1:
        return f">{THIN}99.9{THIN}%"
    decimals = 0 if value in (0, 1) else 1
    return f"{100 * value:.{decimals}f}{THIN}%"


def several(amount: int, noun: str, plural: str = "") -> str:
    """An amount with its noun: ``1 sample``, ``2 samples``."""
    return f"{count(amount)}{NO_BREAK}{noun if amount == 1 else plural or noun + 's'}"


def listed(items: Sequence[str], limit: int = 12) -> str:
    """Words joined by commas and a last *and*; a long list is cut and says so."""
    shown = list(items[:limit])
    if len(items) > limit:
        shown.append(f"{len(items) - limit} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def tally(phrases: Sequence[str]) -> str:
    """How often each phrase occurs: ``2 on a slope and 1 undecided``, ``all 3 on a slope``."""
    kinds = list(dict.fromkeys(phrases))
    if len(kinds) == 1:
        return f"all {len(phrases)} {kinds[0]}" if len(phrases) > 1 else kinds[0]
    return listed([f"{phrases.count(kind)} {kind}" for kind in kinds])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts in columns, for the terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip(" ") for line in lines)


def verdict_phrase(verdict: VerdictLike | None) -> str:
    """A verdict in a few words: ``on a slope``."""
    return "no certificate" if verdict is None else PHRASES.get(verdict.claim, verdict.claim)


def verdict_line(where: str, verdict: VerdictLike | None) -> str:
    """A verdict in one line for the terminal, with its tier and gradient norm."""
    if verdict is None:
        return f"{where}: no certificate"
    claim = f"{verdict_phrase(verdict)}{moved_phrase(verdict)}"
    return f"{where}: {claim} ({verdict.tier}; gradient norm {number(verdict.gradient_norm)})"


def moved_phrase(verdict: VerdictLike) -> str:
    """Where the certified point is, if it is not the surveyed one; else empty."""
    return f", {number(verdict.moved)} from the weights" if verdict.moved else ""


def verdict_sentence(verdict: VerdictLike) -> str:
    """A verdict on a whole network in a sentence or two."""
    sentence = _SENTENCES.get(verdict.claim, f"The certificate claims {verdict.claim}.")
    parts = [sentence.format(norm=number(verdict.gradient_norm))]
    if verdict.claim == "undecided":
        parts.append(_ended(verdict.reason))
    if verdict.moved:
        parts.append(
            f"The certificate is for the exact point {number(verdict.moved)} from the weights."
        )
    return " ".join(part for part in parts if part)


def _ended(reason: str) -> str:
    text = reason.strip()
    return text if not text or text.endswith(".") else f"{text[:1].upper()}{text[1:]}."


def _grouped(plain: str) -> str:
    whole, dot, rest = plain.partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    if len(digits) > 4:
        digits = f"{int(digits):,}".replace(",", THIN)
    return f"{sign}{digits}{dot}{rest}"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
