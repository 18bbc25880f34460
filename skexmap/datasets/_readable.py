"""Check which image files can be opened and decoded."""

import os

import numpy as np

# How a file of each kind begins and ends; a truncated file lacks its end.
_FORMATS = (
    (b"\xff\xd8\xff", b"\xff\xd9"),
    (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
)


def readable_images(paths):
    """Return a mask of the image files that can be opened and decoded.

    Every file is decoded, to find damage in the middle of a file too.

    Parameters
    ----------
    paths : array-like of path-like of shape (n_samples,)
        Paths of the files. Missing and empty files, and files that are not images, are not readable.

    Returns
    -------
    readable : ndarray of bool of shape (n_samples,)
        A mask for the rows of X and y: ``X[readable], y[readable]``.

    See Also
    --------
    skexmap.exceptions.UnreadableImagesError : Raised by the transformers. Its `indices` are the unreadable rows.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from skexmap.datasets import readable_images
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (8, 8)).save(folder / "whole.jpg")
    >>> _ = (folder / "broken.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:100])
    >>> paths = np.array([str(folder / name) for name in ("whole.jpg", "broken.jpg", "absent.jpg")])
    >>> readable_images(paths)
    array([ True, False, False])
    """
    return np.array([_can_be_decoded(path) for path in paths], dtype=bool)


def looks_readable(path):
    """Return whether a file begins and ends as a JPEG or PNG file does, or can be decoded (a faster check)."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16))
            end = file.read()
    except OSError:
        return False
    return any(start.startswith(begins) and ends in end for begins, ends in _FORMATS) or _can_be_decoded(path)


def _can_be_decoded(path):
    # Pillow is needed only for image files.
    from PIL import Image

    try:
        # Open the file ourselves, because Pillow leaks the handle if decoding fails.
        with open(path, "rb") as file, Image.open(file) as image:
            image.load()
    # Pillow raises half a dozen kinds of exceptions for broken files, even SyntaxError.
    except Exception:
        return False
    return True
