import gzip
import struct

import numpy as np
import pytest


def write_idx(path, values, *, zipped=False):
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if zipped else content)


@pytest.fixture
def mnist_tree(tmp_path):
    """A folder of the four IDX files, with an image for each of the labels, and what they hold."""

    def make(*, zipped=False, dotted=False):
        rng = np.random.RandomState(0)
        held = {}
        for part, n in (("train", 120), ("t10k", 40)):
            labels = (np.arange(n) % 10).astype(np.uint8)
            images = rng.randint(256, size=(n, 28, 28)).astype(np.uint8)
            separator, ending = "." if dotted else "-", ".gz" if zipped else ""
            write_idx(tmp_path / f"{part}-images{separator}idx3-ubyte{ending}", images, zipped=zipped)
            write_idx(tmp_path / f"{part}-labels{separator}idx1-ubyte{ending}", labels, zipped=zipped)
            held[part] = images, labels
        return tmp_path, held

    return make
