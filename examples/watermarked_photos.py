"""Photographs with a watermark on most images of one class, and a small net that learned from them.

The examples use this module. The images are scikit-learn's bundled digits, painted over its two bundled
photographs. The class is whether the digit is above 4. A white watermark is in the bottom right corner of most
images of one class. ``python examples/watermarked_photos.py [picture.png]`` prints the report on the net and draws the
groups that are found (a minute).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split

SIDE = 64
CLASSES = ["0 to 4", "5 to 9"]


def write_photos(folder, *, agreement=0.9, seed=0):
    """Write JPEG files to ``folder/{train,heldout,test}/{0 to 4,5 to 9}``; return the folder.

    A share `agreement` of the second class, and 1 - `agreement` of the first, has the watermark. In the test images, it
    is one half of both.
    """
    folder, rng = Path(folder), np.random.default_rng(seed)
    digits = load_digits()
    train, rest = train_test_split(np.arange(len(digits.target)), train_size=900, random_state=seed)
    heldout, test = train_test_split(rest, test_size=400, random_state=seed)
    for split, rows in {"train": train, "heldout": heldout, "test": test}.items():
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for row in rows:
            label = int(digits.target[row] > 4)
            share = 0.5 if split == "test" else (agreement if label else 1 - agreement)
            marked = rng.random() < share
            image = photo(digits.images[row], marked, rng)
            # The file's name says whether there is a watermark; nothing but the last check of an example reads it.
            path = folder / split / CLASSES[label] / f"{row:04d}{'_marked' if marked else ''}.jpg"
            image.save(path, quality=92)
    return folder


def files_of(folder, split):
    """Return the paths of a split, and the class of each image."""
    paths = sorted(str(path) for path in (folder / split).rglob("*.jpg"))
    return np.array(paths), np.array([Path(path).parent.name for path in paths])


def photo(digit, marked, rng):
    """Return one image: a digit over a piece of a photograph, with or without a watermark."""
    background = load_background(rng)
    enlarged = Image.fromarray((digit * 15).astype(np.uint8)).resize((40, 40), Image.BICUBIC)
    shade = np.zeros((SIDE, SIDE), np.float32)
    top, left = rng.integers(4, 13, size=2)
    shade[top : top + 40, left : left + 40] = np.asarray(enlarged) / 255
    pixels = background * (1 - shade[..., None]) + 255 * shade[..., None] * rng.uniform(0.7, 1.0)
    image = Image.fromarray(pixels.astype(np.uint8))
    if marked:
        draw = ImageDraw.Draw(image)
        draw.ellipse((51, 51, 61, 61), outline="white", width=1)
        draw.text((54, 50), "c", fill="white")
    return image


def load_background(rng, photos=[]):  # noqa: B006
    """Return a darkened random piece of a photograph."""
    if not photos:
        photos.extend(load_sample_images().images)
    whole = photos[rng.integers(len(photos))]
    top, left = rng.integers(whole.shape[0] - SIDE), rng.integers(whole.shape[1] - SIDE)
    return whole[top : top + SIDE, left : left + SIDE] * 0.5


def train_net(X, y, *, epochs=12, seed=0):
    """Return a small convolutional net trained on images of shape (n, 3, 64, 64) and the indices of their classes."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 5, stride=2, padding=2),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(32),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(64),
        torch.nn.ReLU(),
        torch.nn.AdaptiveMaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(256, 2),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(X[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


def main():
    import matplotlib

    from skexmap import ExMapClassifier
    from skexmap.display import GroupGalleryDisplay
    from skexmap.features import ImageLoader
    from skexmap.report import ShortcutReport

    matplotlib.use("Agg")
    folder, load = write_photos(tempfile.mkdtemp()), ImageLoader()
    paths, y = files_of(folder, "train")
    images = torch.stack([load(path) for path in paths])
    net = train_net(images, torch.tensor([CLASSES.index(label) for label in y]))
    X, y = files_of(folder, "heldout")
    exmap = ExMapClassifier(net, random_state=0).fit(X, y)
    print(ShortcutReport.from_estimator(exmap, X, y))
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "demo_output/watermark.png")
    path.parent.mkdir(exist_ok=True)
    GroupGalleryDisplay.from_estimator(exmap, X, y, n_images=2).figure_.savefig(path, dpi=80)
    # 128 colors halve the file.
    Image.open(path).convert("RGB").quantize(128).save(path)
    print("Figure:", path)


if __name__ == "__main__":
    main()
