"""Files that are there whole or not at all."""

import os
from contextlib import contextmanager


@contextmanager
def replaced(path):
    """Give the path to write to; the file appears whole or, when the run is stopped, not at all."""
    part = path.with_name(f"part of {path.name}")
    yield part
    os.replace(part, path)
