"""Numbers of Freeman and Bruna: mean normalised length and beads (ends counted) by level.

The draft prints no numbers; these are read off the figures of the later publication.
"""

from __future__ import annotations

from typing import NamedTuple


class Curve(NamedTuple):
    """Published means at levels; the number of pairs behind them is not told."""

    levels: tuple[float, ...]
    lengths: tuple[float, ...]
    beads: tuple[float, ...]

    def at(self, level: float) -> tuple[float, float] | None:
        """Length and beads at a level; None where none are published."""
        if level not in self.levels:
            return None
        place = self.levels.index(level)
        return self.lengths[place], self.beads[place]


CURVES = {
    "quadratic": Curve(
        (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125),
        (1.86, 1.75, 1.66, 1.65, 1.48, 1.33, 1.37, 1.29, 1.35, 1.27),
        (62.4, 38.3, 23.5, 18.8, 13.8, 8.2, 6.8, 5.4, 5.0, 4.0),
    ),
    # The last one: 3.1 to 3.3 beads for all levels from 0.168 on.
    "cubic": Curve(
        (0.01, 0.02, 0.05, 0.1, 0.14, 0.15, 0.158, 0.164, 0.168),
        (1.87, 1.69, 1.43, 1.38, 1.42, 1.66, 2.54, 1.52, 1.00),
        (46.3, 27.3, 14.1, 7.6, 4.5, 3.7, 3.4, 3.1, 3.2),
    ),
    # Test error of convolutional networks in percent.
    "mnist": Curve(
        (0.7, 0.75, 0.8, 1.0, 1.5, 2.0, 4.0),
        (1.071, 1.047, 1.026, 1.016, 1.008, 1.005, 1.003),
        (7.1, 6.6, 6.0, 5.5, 5.1, 4.8, 4.1),
    ),
    # From 50 % on, lengths of at most 1.005 and 3 beads.
    "cifar": Curve(
        (20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0),
        (1.845, 1.159, 1.012, 1.005, 1.005, 1.005, 1.005),
        (5.9, 3.9, 3.0, 3.0, 3.0, 3.0, 3.0),
    ),
    # Test perplexity of a language model on the Penn Treebank.
    "language": Curve(
        (135.0, 150.0, 200.0, 250.0, 300.0, 700.0),
        (1.178, 1.278, 1.346, 1.156, 1.086, 1.091),
        (3.0, 3.0, 3.0, 3.0, 3.0, 3.0),
    ),
}
