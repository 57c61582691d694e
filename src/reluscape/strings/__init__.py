"""Strings of models: paths below a level between trained networks, and what lies on them."""
