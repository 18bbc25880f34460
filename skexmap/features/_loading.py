"""Turn the X that a user passes into batches of images."""

from collections.abc import Mapping
from functools import partial
from numbers import Number

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from skexmap.datasets import ImageNetTransform
from skexmap.datasets._readable import (
    PATH_TYPES,
    as_rgb,
    looks_readable,
    open_image,
    path_text,
    pixels_of,
    standard_mode,
)
from skexmap.datasets._tables import first_offenders
from skexmap.datasets._transforms import mask_path
from skexmap.exceptions import UnreadableImagesError

# Keys under which a dict may hold its image, as in data sets and processors of Hugging Face.
IMAGE_KEYS = ("image", "img", "pixel_values")
AN_IMAGE = (
    "an image: a tensor or array of shape (channels, height, width), a PIL image, a tuple with one of them first, or a "
    "dict with one under 'image', 'img' or 'pixel_values'"
)
# Libraries whose callable objects take an opened image, never a path.
LIBRARIES_OF_TRANSFORMS = ("torchvision", "timm", "transformers")
# The value that is scaled to 1.
FULL_SCALES = {torch.uint8: 255, torch.uint16: 65535}


class ImageLoader:
    """Open an image file with Pillow and apply a transform to the image.

    The image is the first one in the file, in RGB and upright, as its EXIF orientation says. Transparency is dropped.

    Parameters
    ----------
    transform : callable or None, default=None
        Function from a PIL image to a tensor of shape (channels, height, width), for example a torchvision transform.
        It must be picklable, and gets every image in RGB with 8 bits. None scales the pixels to [0, 1]: 255 becomes 1,
        and so does 65535 in a file with 16 bits; pixels that are floats must be between 0 and 1.

    Raises
    ------
    skexmap.exceptions.UnreadableImagesError
        When called, if the file cannot be opened or decoded, has pixels of unknown scale, or has more than
        ``PIL.Image.MAX_IMAGE_PIXELS``, which can be raised; None is no limit.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from PIL import Image
    >>> from skexmap.features import ImageLoader
    >>> path = os.path.join(tempfile.mkdtemp(), "red.png")
    >>> Image.new("RGB", (4, 2), (255, 0, 0)).save(path)
    >>> ImageLoader()(path)[:, 0, 0].tolist()
    [1.0, 0.0, 0.0]
    """

    def __init__(self, transform=None):
        self.transform = transform

    def __call__(self, image):
        """Return the image at a path, or an opened image, as a tensor."""
        image = open_image(image) if isinstance(image, PATH_TYPES) else image
        if self.transform is None:
            return as_tensor(image)
        return self.transform(as_rgb(image) if is_picture(image) else image)


class Images(Dataset):
    """A data set of the images of X, for any supported X, which is indexed by batches of rows."""

    def __init__(self, X, load):
        self.X = X.to_numpy() if hasattr(X, "to_numpy") else X
        self.are_read = load is not None or holds_images(self.X)
        self.given = load
        self.load = loader_of(load)

    def __len__(self):
        return len(self.X)

    def __getitems__(self, rows):
        """Return the rows and their images."""
        if self.are_read:
            return rows, self.read(rows)
        # Copy one batch at a time, because X may be a memory map or read-only.
        is_slice = rows[-1] - rows[0] == len(rows) - 1
        return rows, self.read(rows, self.X[slice(rows[0], rows[-1] + 1) if is_slice else rows], False)

    def read(self, rows, items=None, are_read=True):
        """Return the images of some rows, whose items are given or in X, and need to be read or are images."""
        if not are_read:
            return scaled(as_tensor(items))
        images = [self._load_row(row, i, items) for i, row in enumerate(rows)]
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            odd = next(row for row, image in zip(rows, images, strict=True) if image.shape != images[0].shape)
            raise ValueError(
                f"Images differ in shape: {sorted(shapes)} in one batch (first difference at index {odd}). Resize and "
                "crop them to one size in `load`, for example with ImageLoader(transform)."
            )
        # Scale each by itself: stacked with floats, integers would become floats.
        return torch.cat([scaled(image.unsqueeze(0)) for image in images])

    def _load_row(self, row, i, items):
        item, shown = None, f"X[{row}]"
        try:
            item = self.X[row] if items is None else items[i]
            shown = text_of(item)
            found = image_in(self.load(image_in(item) if opens_files(self.load) else item))
            if not (isinstance(found, torch.Tensor | np.ndarray) or is_picture(found)):
                raise TypeError(f"{'it is' if self.given is None else '`load` returned'} {text_of(found)}")
            return as_tensor(found)
        except UnreadableImagesError as error:
            raise ValueError(
                f"Could not load image {row}: {error} Repair it, or take it out of X and y; "
                "`skexmap.datasets.readable_images` finds all damaged files of a list of paths."
            ) from error
        # X and `load` may raise any exception. Only this place can name the row.
        except Exception as error:
            advice = f"Items of X must be paths or {AN_IMAGE}."
            if self.given is not None:
                advice = f"`load` must turn an item of X into {AN_IMAGE}."
                if isinstance(item, PATH_TYPES) and not opens_files(self.load):
                    advice += " If it takes an opened image instead of a path, pass load=ImageLoader(load)."
            raise ValueError(
                f"Could not load image {row} ({shown}): {type(error).__name__}: {error}. {advice}"
            ) from error


def loader_of(load):
    """Return a function for `load`: by default it opens files, and a transform gets the opened image."""
    if load is None:
        return ImageLoader()
    if not callable(load):
        return partial(_row_of, load)
    libraries = {cls.__module__.partition(".")[0] for cls in type(load).__mro__}
    takes_images = isinstance(load, torch.nn.Module) or not libraries.isdisjoint(LIBRARIES_OF_TRANSFORMS)
    return ImageLoader(load) if takes_images else load


def _row_of(dataset, key):
    # Some data sets do not accept NumPy integers as keys.
    return dataset[key.item() if isinstance(key, np.generic) else key]


def opens_files(load):
    """Return whether a function takes a path or an image, and opens the file itself."""
    return isinstance(load, ImageLoader | ImageNetTransform)


def image_in(item):
    """Return the image (or path) of an item: itself, the first of a pair, or what a dict holds under its name."""
    if isinstance(item, Mapping):
        found = next((item[key] for key in IMAGE_KEYS if key in item), item)
        # The processors of Hugging Face return a batch of one image.
        is_batch = (
            found is not item and isinstance(found, list | torch.Tensor | np.ndarray) and len(found) == 1
        )
        return found[0] if is_batch and getattr(found[0], "ndim", 0) == 3 else found
    is_pair = isinstance(item, tuple | list) and len(item) > 0 and is_image(item[0])
    if isinstance(item, tuple | list) and not is_pair and any(is_image(value) for value in item):
        kinds = ", ".join(text_of(value) for value in item)
        raise TypeError(
            f"The items are tuples ({kinds}) in which the image is not first. Pass the images alone, for example "
            "[image for label, image in pairs], and the labels as y"
        )
    # A list of strings may be a row of a table.
    return item[0] if is_pair and not (isinstance(item, list) and isinstance(item[0], PATH_TYPES)) else item


def is_image(item):
    """Return whether an item is the path of an image, a picture, or an array or tensor of pixels."""
    return isinstance(item, PATH_TYPES) or is_picture(item) or getattr(item, "ndim", 0) >= 2


def is_picture(item):
    """Return whether an item is an image of Pillow, which need not be installed."""
    return hasattr(item, "getbands")


def text_of(item):
    """Describe an item in an error message: by its value, or by its type and shape if it is large."""
    if isinstance(item, PATH_TYPES):
        return repr(path_text(item))
    if item is None or isinstance(item, Number | np.generic):
        return str(item)
    kind = type(item).__name__
    if isinstance(item, Mapping):
        return f"{kind} with the keys {list(item)}"
    return f"{kind} of shape {tuple(item.shape)}" if hasattr(item, "shape") else kind


def as_tensor(image):
    """Return a picture, an array or a tensor as a tensor."""
    if is_picture(image):
        return torch.from_numpy(pixels_of(standard_mode(image)))
    if isinstance(image, torch.Tensor):
        return image.detach()
    image = np.asarray(image)
    if image.dtype.kind not in "biufc":
        raise TypeError(f"Pixels must be numbers, but have the type {image.dtype}. Convert them to floats.")
    # Copy, because the array may be read-only. torch supports only the native byte order, and no longer floats.
    is_longer = image.dtype == np.longdouble
    return torch.from_numpy(np.array(image, np.float64 if is_longer else image.dtype.newbyteorder("=")))


def scaled(images):
    """Return a batch of images as floats, with 255 (65535 for 16 bits) scaled to 1; rows of numbers are unchanged."""
    if images.is_complex():
        raise ValueError("Complex data not supported: pass real images, for example `abs(X)`.")
    if images.ndim < 3 or images.is_floating_point() or images.dtype == torch.bool:
        return images
    n_channels, height, width = images.shape[-3:]
    if images.ndim == 4 and width in (1, 3, 4) and n_channels > 4 and height > 4:
        raise ValueError(
            f"Images of shape {tuple(images.shape[1:])} are (height, width, channels), but must be (channels, height, "
            "width). Move the channels to the front: X.transpose(0, 3, 1, 2) of an array."
        )
    if images.dtype in FULL_SCALES:
        return images.float() / FULL_SCALES[images.dtype]
    low, high = images.min().item(), images.max().item()
    if low < -1 or high > 1:
        raise ValueError(
            f"Pixels are integers ({str(images.dtype).removeprefix('torch.')}) from {low} to {high}, in an "
            "unknown scale. Scale them as the model expects, for example X / 255. Only uint8 and uint16 are scaled."
        )
    return images


def indexable_rows(X):
    """Return X in a form with a length and rows; raise if it has none."""
    if X is None:
        raise TypeError("X is None. Pass images, or their paths.")
    if isinstance(X, DataLoader):
        raise TypeError(
            "X is a DataLoader, which has no rows. Pass its data set, `loader.dataset`, and y in the order of the data "
            "set; `batch_size` and `n_jobs` are parameters of the transformer."
        )
    if isinstance(X, PATH_TYPES):
        raise TypeError(
            f"X is a single path, {text_of(X)}. Pass a list of paths, for example [{path_text(X)!r}]; the paths in a "
            "folder are `sorted(pathlib.Path(folder).glob('*.png'))`."
        )
    # Some sparse arrays of SciPy are dicts, too.
    if isinstance(X, Mapping) and not hasattr(X, "ndim"):
        raise TypeError(f"X is a {text_of(X)}. Pass one of them, for example X[{next(iter(X), 'train')!r}].")
    # A column of polars has no `ndim`.
    if hasattr(X, "to_numpy") and not hasattr(X, "ndim") and not hasattr(X, "columns"):
        return X.to_numpy()
    has_rows = hasattr(X, "__len__") and hasattr(X, "__getitem__") and not isinstance(X, IterableDataset)
    if not has_rows and not hasattr(X, "__array__") and not hasattr(X, "ndim") and hasattr(X, "__iter__"):
        raise TypeError(
            f"X is a {type(X).__name__}, which has no rows. Pass a list, an array, or a data set with a length."
        )
    return X if has_rows or hasattr(X, "ndim") else np.asarray(X)


def holds_images(X):
    """Return whether the items of X are images or paths, to be read one by one, rather than rows of numbers."""
    if isinstance(X, list | tuple):
        return len(X) > 0 and is_image(image_in(X[0]))
    if hasattr(X, "ndim"):
        return (
            not isinstance(X, torch.Tensor) and X.ndim == 1 and len(X) > 0 and is_image(image_in(_first(X)))
        )
    return not hasattr(X, "__array__")


def are_paths(X):
    """Return whether X holds file paths, alone or in pairs with a label."""
    return len(X) > 0 and isinstance(image_in(_first(X)), PATH_TYPES)


def refuse_paths_in_columns(X):
    """Raise ValueError if X is a table of file paths: an X of paths must be one-dimensional."""
    if X.ndim != 2 or not (isinstance(X, np.ndarray) or hasattr(X, "columns")):
        return
    row = np.asarray(X.iloc[:1] if hasattr(X, "iloc") else X[:1]).ravel()
    if any(isinstance(value, PATH_TYPES) and not _is_number(value) for value in row):
        raise ValueError(
            f"Paths must come one per image, in the shape (n_samples,), got {tuple(X.shape)}. Pass their column alone: "
            "X['path'] of a data frame, X[:, 0] of an array."
        )


def _is_number(text):
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _first(X):
    return X.iloc[0] if hasattr(X, "iloc") else X[0]


def files_in(X, load):
    """Return the files of each row, an image and maybe its mask; None unless X holds paths that this package opens."""
    load = loader_of(load)
    if not opens_files(load) or not are_paths(X):
        return None
    X = X.to_numpy() if hasattr(X, "to_numpy") else X
    items = [image_in(X[row]) for row in range(len(X))]
    if not all(isinstance(item, PATH_TYPES) for item in items):
        return None
    paths = [path_text(item) for item in items]
    has_mask = getattr(load, "foreground_only", False)
    return [(path, mask_path(path)) if has_mask else (path,) for path in paths]


def check_readable(X, load):
    """Raise UnreadableImagesError if files of X, or their masks, cannot be read."""
    files = files_in(X, load) or []
    unreadable = {row: file for row, own in enumerate(files) for file in own if not looks_readable(file)}
    if unreadable:
        raise UnreadableImagesError(
            f"{len(unreadable)} of {len(files)} images cannot be opened or decoded: "
            f"{first_offenders([repr(file) for file in unreadable.values()])}. Repair them, or take them out of X "
            "and y: their rows are in `indices` of this error, and `skexmap.datasets.readable_images` returns a mask "
            f"of the readable ones. {_reason(next(iter(unreadable.values())))}",
            np.array(list(unreadable), dtype=np.int64),
        )


def _reason(path):
    """Say why a file cannot be read."""
    try:
        open_image(path)
    except UnreadableImagesError as error:
        return str(error)
    return ""


def in_batches(rows, batch_size):
    """Return lists of at most `batch_size` rows."""
    return [list(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]


def image_batches(X, load, batches, n_readers=0):
    """Yield ``(rows, images)`` for lists of rows of X, in ascending order: the images as one tensor."""
    yield from DataLoader(
        Images(X, load),
        batch_sampler=batches,
        num_workers=n_readers,
        collate_fn=_identity,
        pin_memory=False,
        # Without this, the loader would draw a number from the user's global generator.
        generator=torch.Generator(),
    )


def _identity(batch):
    return batch


def rows_of(X, rows):
    """Return some rows of X, in any order, whatever X is."""
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    return X[rows] if isinstance(X, np.ndarray | torch.Tensor) else [X[row] for row in rows]


def read_images(X, load, rows=None):
    """Return the images of X as one float32 array, or those of some rows."""
    X = X if rows is None else rows_of(X, rows)
    batches = image_batches(X, load, in_batches(range(len(X)), 64))
    return torch.cat([images for _, images in batches]).cpu().float().numpy()


def in_unit_range(image):
    """Return an image with values from 0 to 1: the image itself, or else stretched to that range."""
    low, high = float(image.min()), float(image.max())
    return image if low >= 0 and high <= 1 else (image - low) / ((high - low) or 1)


def check_finite(images, rows):
    """Raise if images have NaN or infinite pixels; the message says which rows of X they are."""
    if not images.is_floating_point() or bool(torch.isfinite(images.sum())):
        return
    bad = (~torch.isfinite(images)).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(str(rows[i]) for i in bad[:5])
        raise ValueError(
            f"{len(bad)} image(s) contain NaN or infinity (first: index {shown}). Remove or repair them first."
        )
