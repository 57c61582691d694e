"""What the page of an exact descent says besides it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class About:
    """What the page says besides the polish.

    Attributes:
        data: Name of the data.
        num_samples: Number of samples.
        options: Command-line options that load model and data again, in the page's folder and
            without the weights.
        description: Where the model comes from, in words.
        weights: File of the polished weights, relative to the page.
        files: File of each layer's certificate, relative to the page.
        places: Number of each layer among the readable ones, from 1.
        rule: Rule of the descents.
        seed: Seed of the descents.
        version: Version of the package.
    """

    data: str
    num_samples: int
    options: str
    description: str
    weights: str
    files: dict[str, str]
    places: dict[str, int]
    rule: str
    seed: int
    version: str

    def label(self, layer: str) -> str:
        """The layer's place and name in a few characters, as in a survey."""
        place = self.places.get(layer, 0)
        return f"{place} ({layer})" if layer else f"{place}"
