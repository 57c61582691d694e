"""Merge trees: the whole landscape of a small block, its minima and the barriers between them."""
