"""From what a user passes as X to batches of images."""

import os

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class ImageLoader:
    """Open an image file with Pillow, as RGB, and apply a transform.

    Parameters
    ----------
    transform : callable or None, default=None
        From a PIL image to a tensor of shape (channels, height, width), for example a torchvision transform; it must
        be picklable. None scales the pixels to [0, 1].

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

        with Image.open(path) as image:
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
        if self.load is None:
            values = self.X[rows[0] : rows[-1] + 1]
            # A memory map or a read-only array is copied, one batch at a time.
            return values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values))
        images = [self._load(row) for row in rows]
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            odd = next(row for row, image in zip(rows, images, strict=True) if image.shape != images[0].shape)
            raise ValueError(
                f"Images differ in shape: {sorted(shapes)} in one batch (first difference at index {odd}). Resize and "
                "crop them to one size in `load`, for example with ImageLoader(transform)."
            )
        return torch.stack(images)

    def _load(self, row):
        try:
            return torch.as_tensor(self.load(self.X[row]))
        except Exception as error:
            raise ValueError(f"Could not load image {row} ({self.X[row]!r}): {error}") from error


def image_batches(X, load, batch_size, num_workers, start=0, stop=None):
    """Yield ``(first, images)``: batches of consecutive images and the index of their first.

    Parameters
    ----------
    X : array, tensor, memory map, paths or indices, of length n_samples
    load : callable or None
        From an item of X to a tensor; None for arrays, and for paths, which are opened with `ImageLoader`.
    batch_size : int
    num_workers : int
        Processes that load; 0 loads in this one.
    start, stop : int
        Range of rows.
    """
    stop = len(X) if stop is None else stop
    batches = [list(range(i, min(i + batch_size, stop))) for i in range(start, stop, batch_size)]
    loader = DataLoader(
        _Images(X, load),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_identity,
        pin_memory=False,
        # Without one of its own, the loader draws a number from the user's global generator.
        generator=torch.Generator(),
    )
    for rows, images in zip(batches, loader, strict=True):
        yield rows[0], images


def _identity(batch):
    return batch


def check_finite(images, first):
    """Raise if images have NaN or infinite pixels; the message says which."""
    if not images.is_floating_point() or bool(torch.isfinite(images.sum())):
        return
    bad = (~torch.isfinite(images)).flatten(1).any(1).nonzero().flatten() + first
    if len(bad):
        shown = ", ".join(map(str, bad[:5].tolist()))
        raise ValueError(
            f"{len(bad)} image(s) contain NaN or infinity (first: index {shown}). Remove or repair them before."
        )
