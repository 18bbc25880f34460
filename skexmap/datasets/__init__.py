"""Data sets with a known shortcut: `make_*` generates, `load_*` reads a layout on disk."""

from skexmap.datasets._colored_digits import make_colored_digits

__all__ = ["make_colored_digits"]
