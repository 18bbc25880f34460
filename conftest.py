"""Modules whose examples need a package that is not installed are left out of the doctests."""

from importlib.util import find_spec

NEED_PILLOW = [
    "skexmap/datasets/_image_files.py",
    "skexmap/datasets/_readable.py",
    "skexmap/datasets/_transforms.py",
    "skexmap/features/_loading.py",
]
collect_ignore = [] if find_spec("PIL") else NEED_PILLOW
