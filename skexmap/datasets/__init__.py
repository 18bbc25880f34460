"""Data sets with a known shortcut: `make_*` functions generate data, `load_*` functions read files."""

from skexmap.datasets._colored_digits import make_colored_digits
from skexmap.datasets._colored_mnist import load_colored_mnist, load_two_shortcut_fashion
from skexmap.datasets._image_files import load_celeba, load_image_folder, load_urbancars, load_waterbirds
from skexmap.datasets._readable import readable_images
from skexmap.datasets._shortcut_features import make_shortcut_features
from skexmap.datasets._transforms import ImageNetTransform

__all__ = [
    "ImageNetTransform",
    "load_celeba",
    "load_colored_mnist",
    "load_image_folder",
    "load_two_shortcut_fashion",
    "load_urbancars",
    "load_waterbirds",
    "make_colored_digits",
    "make_shortcut_features",
    "readable_images",
]
