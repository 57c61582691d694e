"""The exceptions of reluscape.

All are one-line messages that say what was expected, what was received and how to mend it::

    ReluscapeError
    ├── InputError             bad data, shapes, options or files (also a ValueError)
    │   ├── UnsupportedModelError   a module that cannot be read as affine and ReLU layers
    │   ├── OtherStudyError         a study's file holds another study
    │   └── DamagedStudyError       a study's file, or one of its arrays, cannot be read
    └── AnalysisError          a computation broke down; carries the evidence

Expected outcomes (infeasible, limit reached, undecided) are statuses, never exceptions.
"""


class ReluscapeError(Exception):
    """Base of every error that reluscape raises on purpose."""


class InputError(ReluscapeError, ValueError):
    """The caller's data, shapes, options or files cannot be used as given."""


class UnsupportedModelError(InputError):
    """A module cannot be read as a chain of affine and ReLU layers."""


class OtherStudyError(InputError):
    """A study's file holds a study of other parameters, seed or code."""


class DamagedStudyError(InputError):
    """A study's file is no SQLite file any more, or a file of its arrays cannot be read."""


class AnalysisError(ReluscapeError):
    """A computation broke down; the message carries the evidence."""
