"""Open image files, and check which of them can be opened and decoded."""

import os

import numpy as np

from skexmap.exceptions import UnreadableImagesError

PATH_TYPES = (str, bytes, os.PathLike)
# How a file of each kind begins and ends; a truncated file lacks its end.
_FORMATS = (
    (b"\xff\xd8\xff", b"\xff\xd9"),
    (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
)


def readable_images(paths) -> np.ndarray:
    """Return a mask of the image files that can be opened and decoded.

    Every file is decoded, to find damage in the middle of a file too.

    Parameters
    ----------
    paths : array-like of path-like of shape (n_samples,)
        Paths of the files. Missing and empty files, and files that are not images, are not readable, nor are pictures
        with more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.

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
    # To open a pipe would be to wait for its writer.
    if not os.path.isfile(path):
        return False
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
    try:
        open_image(path)
    except UnreadableImagesError:
        return False
    return True


def open_image(path):
    """Return the first picture of a file, upright, in one of the modes of `standard_mode`."""
    # Pillow is needed only for image files.
    from PIL import Image, ImageOps

    path = path_text(path)
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError("it is not a regular file")
        # Open the file ourselves, because Pillow leaks the handle if decoding fails.
        with open(path, "rb") as file, Image.open(file) as image:
            n_pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
            # Pillow itself raises only beyond twice the limit.
            if limit is not None and n_pixels > limit:
                raise Image.DecompressionBombError(
                    f"it has {n_pixels} pixels, more than the limit of {limit}"
                )
            is_16_bit = image.format == "PPM" and image.mode == "I"
            image = ImageOps.exif_transpose(image)
            # Pillow scales a PGM with more than 8 bits to 65535.
            return standard_mode(Image.fromarray(np.asarray(image, np.uint16)) if is_16_bit else image)
    # Pillow raises half a dozen kinds of exceptions for broken files, even SyntaxError.
    except Exception as error:
        message = f"{path!r} cannot be read: {type(error).__name__}: {error}."
        if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            message += (
                " If you trust the file, set `PIL.Image.MAX_IMAGE_PIXELS` higher, or to None for no limit."
            )
        raise UnreadableImagesError(message) from error


def path_text(path):
    """Return a path as `str`, so that errors do not show `np.str_(...)`."""
    return str(os.fsdecode(path))


def standard_mode(image):
    """Return a picture in the mode RGB, or with more than 8 bits in the mode F, with values from 0 to 1."""
    from PIL import Image

    if image.mode == "I":
        raise ValueError(
            "its pixels are integers of 32 bits, which may have any scale; save it in 8 or 16 bits"
        )
    if image.mode == "F" or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float32) / np.float32(1 if image.mode == "F" else 65535)
        if not 0 <= values.min() <= values.max() <= 1:
            raise ValueError(
                f"its pixels are floats from {values.min():g} to {values.max():g}; scale them to the range 0 to 1"
            )
        return Image.fromarray(values)
    # Pillow would warn of a palette with transparent colors.
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")


def as_rgb(image):
    """Return a picture of any mode in RGB, with 8 bits."""
    image = standard_mode(image)
    if image.mode == "F":
        image = image.point(lambda value: value * 255 + 0.5).convert("L")
    return image.convert("RGB")


def pixels_of(image):
    """Return a picture in a standard mode as a float32 array (3, height, width), with values from 0 to 1."""
    if image.mode == "F":
        return np.repeat(np.asarray(image)[None], 3, axis=0)
    return np.asarray(image).transpose(2, 0, 1) / np.float32(255)
