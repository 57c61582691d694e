"""The published experiments: protocol, published numbers and comparison, one file per paper.

Nothing outside `reproduce` imports them. A file holds `PAPER`, a `Paper`.
"""
