"""``python -m reluscape``."""

from reluscape.cli import main

main()
