"""Paths between models: the highest loss on them, the units that correspond, the strings that join."""
