"""The images that a report shows: which ones, as small pictures, with what the model looked at."""

import base64
import io
import warnings

import numpy as np
from sklearn.base import clone

from skexmap.exceptions import SkexmapWarning
from skexmap.features._loading import are_paths, in_unit_range, read_images, rows_of
from skexmap.groups._typical import most_typical_first

# Images on one page, side of a thumbnail in pixels, and images that are read at once.
MAX_IMAGES, SIDE, BATCH = 900, 112, 64
# A group's typical images are sought among this many of its images.
MAX_COMPARED = 2000
# Levels of relevance in a picture, on each side of 0.
LEVELS = 7
SUPPORTS, OPPOSES = (225, 29, 72), (37, 99, 235)


class Gallery:
    """Chooses and draws images; it keeps X, and reads only the images that it draws."""

    def __init__(self, parts, X, classes, explained, keys, means, retrained):
        self.parts = parts
        self.X = X
        self.classes = classes.tolist()
        self.explained = explained
        self.keys = keys
        self.means = means
        self.retrained = retrained

    def examples(self, rows, n_examples):
        """Return the pictures of each row: typical images, those that are most wrong, and random ones."""
        each = min(n_examples, max(1, MAX_IMAGES // (3 * len(rows))))
        chosen = [self._choose(row, each) for row in rows[: MAX_IMAGES // 3]]
        pictures = self._pictures(
            [index for kinds in chosen for indices in kinds.values() for index in indices]
        )
        return [
            [self._card(index, kind, pictures[index]) for kind, indices in kinds.items() for index in indices]
            for kinds in chosen
        ]

    def mean_picture(self, key):
        """Return the mean map of a cluster as a picture."""
        plane = self.means[key].sum(axis=0)
        return picture_of_relevance(plane)

    def _choose(self, row, each):
        explained = self.explained
        rng = np.random.RandomState(row["group"])
        members = rng.permutation(np.flatnonzero(explained.members(row)))
        compared = members[:MAX_COMPARED]
        typical = compared[most_typical_first(explained.maps[compared])[:each]]
        wrong = members[explained.predicted[members] != row["code"]]
        wrong = np.setdiff1d(wrong, typical, assume_unique=True)
        wrong = wrong[np.argsort(-self._confidence(wrong), kind="stable")[:each]]
        others = members[~np.isin(members, np.concatenate([typical, wrong]))][:each]
        return {"typical": typical, "most wrong": wrong, "random": others}

    def _confidence(self, rows):
        """Return by how much the logit of the prediction exceeds that of the class, for images that are wrong."""
        head = dict(self.parts.transformer.model.named_modules()).get(self.parts.transformer.head_)
        explained = self.explained
        if not hasattr(head, "weight") or len(self.parts.transformer.classes_) != len(self.classes):
            return np.zeros(len(rows))
        weight = head.weight.detach().flatten(1).cpu().double().numpy()
        bias = 0 if head.bias is None else head.bias.detach().cpu().double().numpy()
        logits = explained.embeddings[rows] @ weight.T + bias
        if logits.shape[1] == 1:
            return np.abs(logits[:, 0])
        at = np.arange(len(rows))
        return logits[at, explained.predicted[rows]] - logits[at, explained.class_codes[rows]]

    def _pictures(self, indices):
        """Return image, magnitude and signed map as pictures, for each of some rows of X."""
        transformer = self.parts.transformer
        signed = clone(transformer).set_params(
            evidence="signed", return_embedding=False, load=None, cache=None
        )
        signed.set_output(transform="default")
        pictures = {}
        for start in range(0, len(indices), BATCH):
            rows = indices[start : start + BATCH]
            images = read_images(self.X, transformer.load, rows)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SkexmapWarning)
                if start == 0:
                    signed.fit(images)
                maps = signed.transform(images).reshape(len(rows), *transformer.heatmap_shape_)
            for row, image, relevance in zip(rows, images, maps, strict=True):
                pictures[row] = {
                    "image": picture_of_image(image),
                    "small": max(image.shape[1:]) < SIDE,
                    "signed": picture_of_relevance(relevance.sum(axis=0)),
                    "magnitude": picture_of_relevance(np.abs(self.explained.maps[row]).sum(axis=0)),
                }
        return pictures

    def _card(self, index, kind, pictures):
        explained = self.explained
        code, predicted = int(explained.class_codes[index]), int(explained.predicted[index])
        after = None if self.retrained is None else self.retrained.tolist()[index]
        return {
            **pictures,
            "index": int(index),
            "item": str(next(iter(rows_of(self.X, [index])))) if are_paths(self.X) else f"image {index}",
            "kind": kind,
            "class": self.classes[code],
            "before": "another class" if predicted < 0 else self.classes[predicted],
            "after": after,
            "right_before": predicted == code,
            "right_after": None if after is None else after == self.classes[code],
        }


def pixels_of(image):
    """Return an image of shape (channels, height, width) as bytes of shape (height, width, 3)."""
    image = in_unit_range(image)
    if len(image) != 3:
        image = np.repeat(image.mean(axis=0, keepdims=True), 3, axis=0)
    return (255 * image.transpose(1, 2, 0)).round().astype(np.uint8)


def picture_of_image(image):
    """Return an image of shape (channels, height, width) as a JPEG data URI."""
    from PIL import Image

    picture = Image.fromarray(pixels_of(image))
    picture.thumbnail((SIDE, SIDE))
    return data_uri(picture, "jpeg", quality=80)


def picture_of_relevance(plane):
    """Return a map of shape (height, width) as a PNG data URI: red supports, blue opposes, clear is 0."""
    from PIL import Image

    scaled = plane / (np.abs(plane).max() or 1)
    # The root shows weak relevance too.
    levels = np.rint(LEVELS * np.sign(scaled) * np.sqrt(np.abs(scaled))).astype(int)
    picture = Image.fromarray((levels + LEVELS).astype(np.uint8), mode="P")
    strengths = np.arange(-LEVELS, LEVELS + 1)
    picture.putpalette([part for level in strengths for part in (OPPOSES if level < 0 else SUPPORTS)])
    clear = bytes(round(255 * abs(level) / LEVELS) for level in strengths)
    return data_uri(picture, "png", transparency=clear, bits=4, optimize=True)


def data_uri(picture, form, **options):
    """Return a picture as a data URI."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"
