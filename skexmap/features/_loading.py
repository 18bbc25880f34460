"""Turn the X that a user passes into batches of images."""

import os

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from skexmap.datasets import ImageNetTransform
from skexmap.datasets._readable import looks_readable
from skexmap.datasets._tables import first_offenders
from skexmap.datasets._transforms import mask_path
from skexmap.exceptions import UnreadableImagesError


class ImageLoader:
    """Open an image file with Pillow, as RGB, and apply a transform.

    Parameters
    ----------
    transform : callable or None, default=None
        Function from a PIL image to a tensor of shape (channels, height, width), for example a torchvision transform.
        It must be picklable. None scales the pixels to [0, 1].

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

    def __call__(self, path):
        """Return the image at a path as a tensor."""
        from PIL import Image

        # Open the file ourselves, because Pillow leaks the handle if decoding fails. Convert to `str` so that errors do
        # not show `np.str_(...)`.
        with open(str(os.fspath(path)), "rb") as file, Image.open(file) as image:
            image = image.convert("RGB")
        if self.transform is not None:
            return self.transform(image)
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / np.float32(255))


class DatasetLoader:
    """Read the image of item i of a torch Dataset, so that ``X = np.arange(len(dataset))`` stands for its images.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        ``dataset[i]`` is a tensor or a tuple with the image first.

    Examples
    --------
    >>> import torch
    >>> from skexmap.features import DatasetLoader
    >>> dataset = torch.utils.data.TensorDataset(torch.zeros(5, 3, 8, 8), torch.arange(5))
    >>> DatasetLoader(dataset)(2).shape
    torch.Size([3, 8, 8])
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __call__(self, index):
        """Return the image of an item."""
        item = self.dataset[int(index)]
        return item[0] if isinstance(item, (tuple, list)) else item


def are_paths(X):
    """Return whether X holds file paths."""
    return len(X) > 0 and isinstance(_first(X), (str, os.PathLike))


def refuse_paths_in_columns(X):
    """Raise ValueError if X is a table of file paths: an X of paths must be one-dimensional."""
    if X.ndim != 2 or not (isinstance(X, np.ndarray) or hasattr(X, "columns")):
        return
    row = np.asarray(X.iloc[:1] if hasattr(X, "iloc") else X[:1]).ravel()
    if any(isinstance(value, (str, os.PathLike)) and not _is_number(value) for value in row[:1]):
        raise ValueError(
            f"Paths must come one per image, in the shape (n_samples,), got {tuple(X.shape)}. Pass the column alone: "
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


class _Images(Dataset):
    """The images of X; a batch of rows is read at once."""

    def __init__(self, X, load):
        self.X = X.to_numpy() if hasattr(X, "to_numpy") else X
        self.load = ImageLoader() if load is None and are_paths(X) else load

    def __len__(self):
        return len(self.X)

    def __getitems__(self, rows):
        """Return the rows and their images."""
        if self.load is None:
            values = self.X[rows[0] : rows[-1] + 1]
            # Copy one batch at a time, because X may be a memory map or read-only.
            return rows, values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values))
        images = [self._load(row) for row in rows]
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            odd = next(row for row, image in zip(rows, images, strict=True) if image.shape != images[0].shape)
            raise ValueError(
                f"Images differ in shape: {sorted(shapes)} in one batch (first difference at index {odd}). Resize and "
                "crop them to one size in `load`, for example with ImageLoader(transform)."
            )
        return rows, torch.stack(images)

    def _load(self, row):
        try:
            return torch.as_tensor(self.load(self.X[row]))
        # `load` may raise any exception. The row is known only here.
        except Exception as error:
            item = self.X[row]
            shown = repr(str(item)) if are_paths(self.X) else item
            raise ValueError(
                f"Could not load image {row} ({shown}): {type(error).__name__}: {error}. Repair it, or take it out of "
                "X and y; `skexmap.datasets.readable_images` finds all damaged files of a list of paths."
            ) from error


def check_readable(X, load):
    """Raise UnreadableImagesError if files of X, or their masks, cannot be read."""
    # Only paths that this package opens can be checked: those without a `load`, or with one of its own.
    if not (load is None or isinstance(load, ImageLoader | ImageNetTransform)) or not are_paths(X):
        return
    paths = [os.fspath(path) for path in X]
    masks = [mask_path(path) for path in paths] if getattr(load, "foreground_only", False) else paths
    unreadable = {
        row: file
        for row, files in enumerate(zip(paths, masks, strict=True))
        for file in dict.fromkeys(files)
        if not looks_readable(file)
    }
    if unreadable:
        raise UnreadableImagesError(
            f"{len(unreadable)} of {len(paths)} images cannot be opened or decoded: "
            f"{first_offenders([repr(str(file)) for file in unreadable.values()])}. Repair them, or take them out of X "
            "and y: their rows are in `indices` of this error, and `skexmap.datasets.readable_images` returns a mask "
            "of the readable ones.",
            np.array(list(unreadable), dtype=np.int64),
        )


def image_batches(X, load, batch_size, num_workers):
    """Yield ``(rows, images)``: batches of images as one tensor, and their indices in X."""
    batches = [list(range(i, min(i + batch_size, len(X)))) for i in range(0, len(X), batch_size)]
    yield from DataLoader(
        _Images(X, load),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_identity,
        pin_memory=False,
        # Without this, the loader would draw a number from the user's global generator.
        generator=torch.Generator(),
    )


def _identity(batch):
    return batch


def check_finite(images, rows):
    """Raise if images have NaN or infinite pixels; the message says which rows of X they are."""
    if not images.is_floating_point() or bool(torch.isfinite(images.sum())):
        return
    bad = (~torch.isfinite(images)).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(str(rows[i]) for i in bad[:5])
        raise ValueError(
            f"{len(bad)} image(s) contain NaN or infinity (first: index {shown}). Remove or repair them before."
        )
