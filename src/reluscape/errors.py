"""The exceptions of reluscape.

All are one-line messages that say what was expected, what was received and how to mend it::

    ReluscapeError
    ├── InputError             bad data, shapes, options or files (also a ValueError)
    │   └── UnsupportedModelError   a module that cannot be read as affine and ReLU layers
    └── AnalysisError          a computation broke down; carries the evidence

Expected outcomes (infeasible, limit reached, undecided) are statuses, never exceptions.
"""


class ReluscapeError(Exception):
    """Base of every error that reluscape raises on purpose."""


class InputError(ReluscapeError, ValueError):
    """The caller's data, shapes, options or files cannot be used as given."""


class UnsupportedModelError(InputError):
    """A module cannot be read as a chain of affine and ReLU layers."""


class AnalysisError(ReluscapeError):
    """A computation broke down; the message carries the evidence."""
