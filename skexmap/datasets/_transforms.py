"""Turn an image file into the array that the published models expect."""

import os
from dataclasses import dataclass, field

import numpy as np

from skexmap.datasets._readable import (
    PATH_TYPES,
    as_rgb,
    open_image,
    path_text,
    pixels_of,
    standard_mode,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# A gray level of a CUB mask encodes how many annotators marked the pixel as bird. Above this level, at least four of
# five did.
MASK_THRESHOLD = 200


@dataclass(frozen=True)
class ImageNetTransform:
    """Resize, crop the center and standardize by the ImageNet statistics: the published evaluation transform.

    Pass it as `load` to `HeatmapTransformer` and `EmbeddingTransformer`, whose X is then an array of paths.

    Parameters
    ----------
    resize : int, default=256
        Side of the image before cropping, in pixels. Both sides are resized to it, as in the published code of deep
        feature reweighting for Waterbirds and CelebA.
    crop : int, default=224
        Side of the square cut from the center, in pixels.
    foreground_only : bool, default=False
        Whether to black out the background, where the mask beside the image (same name, ``.png``) has values of at most
        200 of 255. The image itself must not be a PNG file.

    Raises
    ------
    ValueError
        If `crop` is larger than `resize`, or not positive.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from skexmap.datasets import ImageNetTransform
    >>> path = pathlib.Path(tempfile.mkdtemp(), "gray.png")
    >>> Image.new("RGB", (300, 200), (124, 116, 104)).save(path)
    >>> image = ImageNetTransform()(path)
    >>> image.shape, image.dtype
    ((3, 224, 224), dtype('float32'))
    >>> float(abs(image).max()) < 0.02
    True
    """

    resize: int = 256
    crop: int = 224
    foreground_only: bool = field(default=False, kw_only=True)

    def __post_init__(self):
        if not 0 < self.crop <= self.resize:
            raise ValueError(
                f"A square of {self.crop} pixels cannot be cut out of {self.resize} x {self.resize} pixels."
            )

    def __call__(self, image):
        """Return the image as an array."""
        from PIL import Image

        if isinstance(image, PATH_TYPES):
            path, image = path_text(image), open_image(image)
            if self.foreground_only:
                image = foreground(image, path)
        elif self.foreground_only:
            raise ValueError("The mask is found by the image's path: pass the path instead of the image.")
        image = standard_mode(image).resize((self.resize, self.resize), Image.Resampling.BILINEAR)
        margin = (self.resize - self.crop) // 2
        image = image.crop((margin, margin, margin + self.crop, margin + self.crop))
        mean, std = np.float32([IMAGENET_MEAN, IMAGENET_STD])[:, :, None, None]
        return np.ascontiguousarray((pixels_of(image) - mean) / std)


def mask_path(path):
    """Return the path of the mask beside an image; raise ValueError if it is the path of the image itself."""
    stem, extension = os.path.splitext(path)
    if extension == ".png":
        raise ValueError(f"{path} is a PNG file, and so would be its own mask. Save the image as JPEG.")
    return f"{stem}.png"


def foreground(image, path):
    """Return the image with its background, by the mask, in black."""
    from PIL import Image

    mask = np.asarray(as_rgb(open_image(mask_path(path))).convert("L")) > MASK_THRESHOLD
    size = mask.shape[::-1]
    if size != image.size:
        raise ValueError(f"The mask {mask_path(path)} has the size {size}, its image {path} {image.size}.")
    black = Image.new(image.mode, image.size)
    black.paste(image, mask=Image.fromarray(mask))
    return black
