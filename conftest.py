"""What is left out of the doctests: modules whose examples need a package that is not installed, and fixtures."""

from importlib.util import find_spec

NEED_PILLOW = [
    "skexmap/datasets/_image_files.py",
    "skexmap/datasets/_readable.py",
    "skexmap/datasets/_transforms.py",
    "skexmap/features/_loading.py",
]
collect_ignore = [] if find_spec("PIL") else NEED_PILLOW
# They hold fixtures, not doctests; collected as modules, files of one name exclude each other.
collect_ignore_glob = ["tests/*conftest.py"]
