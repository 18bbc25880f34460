"""Data sets from MNIST-like IDX files, with colored ink and optionally a second shortcut."""

import gzip
import numbers
import struct
import zlib
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch, check_random_state, check_scalar

from skexmap.datasets._splits import INK_NAMES, INKS, aligned_attribute, make_split
from skexmap.datasets._tables import require_files

N_TRAIN = 50_000
MARK_SIDE = 4
MARK_NAMES = ("top left", "bottom right")


def load_colored_mnist(root, correlation=0.99, *, split_at=4, random_state=None):
    """Load MNIST or Fashion-MNIST in colored ink that is a shortcut for the class (Arjovsky et al., 2019 [1]_).

    The class is ``label > split_at``. Class 0 is mostly green, (0, 255, 0), class 1 mostly red, (255, 0, 0).

    Parameters
    ----------
    root : path-like
        Folder with the four IDX files as published, gzipped or not.
    correlation : float in [0, 1], default=0.99
        Share of each class whose ink agrees with the class, in the train, validation and correlated test splits.
    split_at : int from 0 to 8, default=4
        Largest label of class 0.
    random_state : int, RandomState instance or None, default=None
        Controls which images have the other ink.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits ``train`` (the first 50,000 images), ``validation`` (the other 10,000), ``test`` (10,000 test images,
        each in *both* inks; images ``i`` and ``10,000 + i`` are twins) and ``test_correlated`` (the published test set,
        with each image in one ink). Each is a Bunch with

        ``data`` : ndarray of shape (n_samples, 3, 28, 28), float32, values in [0, 1]
            All splits together take about 850 MB.
        ``target``, ``attributes``, ``group_labels`` : ndarray of shape (n_samples,), int64
            Class, ink (0 green, 1 red), and group ``2 * target + ink``.
        ``label`` : ndarray of shape (n_samples,), uint8
            The label in the file.
        ``target_names``, ``attribute_names``, ``group_names`` : list of str
            Names of the classes, attributes and groups.

    Raises
    ------
    FileNotFoundError, ValueError
        If files are missing; if one is truncated or not an IDX file, images and labels differ in number, or a parameter
        is out of range.

    References
    ----------
    .. [1] M. Arjovsky, L. Bottou, I. Gulrajani, D. Lopez-Paz, "Invariant Risk Minimization", 2019. arXiv:1907.02893

    Examples
    --------
    >>> import pathlib, struct, tempfile
    >>> from skexmap.datasets import load_colored_mnist
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for part, n in [("train", 24), ("t10k", 4)]:
    ...     images = struct.pack(">BBBBIII", 0, 0, 8, 3, n, 28, 28) + bytes(n * 784)
    ...     labels = struct.pack(">BBBBI", 0, 0, 8, 1, n) + bytes(3 * (i % 4) for i in range(n))
    ...     _ = (root / f"{part}-images-idx3-ubyte").write_bytes(images)
    ...     _ = (root / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    >>> mnist = load_colored_mnist(root, random_state=0)
    >>> mnist.train.data.shape
    (20, 3, 28, 28)
    >>> mnist.test.group_labels
    array([0, 0, 2, 2, 1, 1, 3, 3])
    """
    check_scalar(correlation, "correlation", numbers.Real, min_val=0, max_val=1)

    def make(images, labels, y, ink, **names):
        return make_split(_dye(images, ink), y, ink, attribute_names=INK_NAMES, label=labels, **names)

    return _load_with_shortcuts(root, split_at, [correlation], make, random_state)


def load_two_shortcut_fashion(
    root, *, ink_correlation=0.95, mark_correlation=0.95, split_at=4, random_state=None
):
    """Load MNIST or Fashion-MNIST with two shortcuts: ink color and a corner mark.

    This is the setting of UrbanCars ("Whac-A-Mole" [1]_: mitigating one shortcut may amplify the other) on small data.
    The class is ``label > split_at``. Class 0 is mostly green with a white 4 x 4 mark in the top left corner, and class
    1 is mostly red with the mark in the bottom right corner. Given the class, the two shortcuts are independent.

    Parameters
    ----------
    root : path-like
        Folder with the four IDX files of Fashion-MNIST (or MNIST) as published, gzipped or not.
    ink_correlation, mark_correlation : float in [0, 1], default=0.95
        Share of each class whose ink, or mark, agrees with the class, in the train, validation and correlated test
        splits.
    split_at : int from 0 to 8, default=4
        Largest label of class 0.
    random_state : int, RandomState instance or None, default=None
        Controls which images have the other ink and the other mark.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits ``train``, ``validation``, ``test`` (every test image in both inks with both marks) and
        ``test_correlated``, as in `load_colored_mnist`. The attribute is the pair, ``2 * ink + mark``. The arrays
        ``ink`` and ``mark`` hold the class that each shortcut points to, for `skexmap.metrics.shortcut_gaps`.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `load_colored_mnist`.

    References
    ----------
    .. [1] Z. Li et al., "A Whac-A-Mole Dilemma: Shortcuts Come in Multiples Where Mitigating One Amplifies Others",
       CVPR 2023. arXiv:2212.04825

    Examples
    --------
    >>> import pathlib, struct, tempfile
    >>> from skexmap.datasets import load_two_shortcut_fashion
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for part, n in [("train", 12), ("t10k", 2)]:
    ...     images = struct.pack(">BBBBIII", 0, 0, 8, 3, n, 28, 28) + bytes(n * 784)
    ...     labels = struct.pack(">BBBBI", 0, 0, 8, 1, n) + bytes(9 * (i % 2) for i in range(n))
    ...     _ = (root / f"{part}-images-idx3-ubyte").write_bytes(images)
    ...     _ = (root / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    >>> load_two_shortcut_fashion(root, random_state=0).test.group_labels
    array([0, 4, 1, 5, 2, 6, 3, 7])
    """
    check_scalar(ink_correlation, "ink_correlation", numbers.Real, min_val=0, max_val=1)
    check_scalar(mark_correlation, "mark_correlation", numbers.Real, min_val=0, max_val=1)
    attribute_names = [f"{ink} + {corner}" for ink in INK_NAMES for corner in MARK_NAMES]

    def make(images, labels, y, ink, mark, **names):
        return make_split(
            _mark(_dye(images, ink), mark),
            y,
            2 * ink + mark,
            attribute_names=attribute_names,
            label=labels,
            ink=ink,
            mark=mark,
            **names,
        )

    return _load_with_shortcuts(root, split_at, [ink_correlation, mark_correlation], make, random_state)


def _load_with_shortcuts(root, split_at, correlations, make, random_state):
    """Return the splits that `make` returns for images and drawn shortcuts; the test images have all combinations."""
    check_scalar(split_at, "split_at", numbers.Integral, min_val=0, max_val=8)
    rng = check_random_state(random_state)
    names = {"target_names": (f"label 0-{split_at}", f"label {split_at + 1}-9")}
    dataset = Bunch()
    for name, (images, labels) in _read_three_parts(root).items():
        y = (labels > split_at).astype(np.int64)
        drawn = [aligned_attribute(y, correlation, rng) for correlation in correlations]
        if name == "test":
            combinations = list(product((0, 1), repeat=len(drawn)))
            n = len(combinations)
            shortcuts = np.repeat(combinations, len(images), axis=0).T
            dataset.test = make(
                np.tile(images, (n, 1, 1)), np.tile(labels, n), np.tile(y, n), *shortcuts, **names
            )
            name = "test_correlated"
        dataset[name] = make(images, labels, y, *drawn, **names)
    return dataset


def _dye(images, ink):
    """Return (n, 3, height, width) float32 images in [0, 1]: each gray image in its ink."""
    dyed = INKS[ink][:, :, None, None] * images[:, None]
    dyed *= np.float32(1 / 255)
    return dyed


def _mark(images, mark):
    """Put a white square into the corner that `mark` names, in place."""
    images[mark == 0, :, :MARK_SIDE, :MARK_SIDE] = 1.0
    images[mark == 1, :, -MARK_SIDE:, -MARK_SIDE:] = 1.0
    return images


def _read_three_parts(root):
    """Return images and labels of train (the first 50,000 images), validation (the rest) and test."""
    root = Path(root)
    files = {
        (part, kind): _find_idx(root, f"{part}-{kind}", n_dimensions)
        for part in ("train", "t10k")
        for kind, n_dimensions in (("images", 3), ("labels", 1))
    }
    require_files(
        *files.values(), advice="Give as `root` the folder that has the four files, gzipped (.gz) or not."
    )
    arrays = {key: _read_idx(path) for key, path in files.items()}
    for part in ("train", "t10k"):
        images, labels = arrays[part, "images"], arrays[part, "labels"]
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{files[part, 'images']} has the shape {images.shape} and {files[part, 'labels']} {labels.shape}: "
                "these are not images and a label for each."
            )
    images, labels = arrays["train", "images"], arrays["train", "labels"]
    # Split a smaller file of the same layout in the same proportions.
    n_train = N_TRAIN if len(images) == 60_000 else round(len(images) * 5 / 6)
    return {
        "train": (images[:n_train], labels[:n_train]),
        "validation": (images[n_train:], labels[n_train:]),
        "test": (arrays["t10k", "images"], arrays["t10k", "labels"]),
    }


def _find_idx(root, stem, n_dimensions):
    """Return the path of an IDX file under any of its usual names, or the published name if no file exists."""
    names = [
        f"{stem}{separator}idx{n_dimensions}-ubyte{ending}" for separator in "-." for ending in ("", ".gz")
    ]
    return next((root / name for name in names if (root / name).is_file()), root / names[0])


def _read_idx(path):
    """Return the array in an IDX file of unsigned bytes, gzipped or not; raise ValueError if it is damaged."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        if len(content) < 4 or not content.startswith(b"\x00\x00\x08"):
            raise ValueError(f"it starts with {content[:4].hex(' ')}")
        n_dimensions = content[3]
        shape = struct.unpack_from(f">{n_dimensions}I", content, offset=4)
        return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)
    except (EOFError, OSError, ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is not a whole IDX file of unsigned bytes: {error}.") from error
