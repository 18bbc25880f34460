"""Places where relevance may sit: windows of the image, its border, and color channels."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from skexmap.groups._typical import unit_sum

_NAMES = (
    ("top left corner", "top", "top right corner"),
    ("left side", "center", "right side"),
    ("bottom left corner", "bottom", "bottom right corner"),
)
_COLORS = ("red", "green", "blue")
# Sides of the square windows and width of the border, as parts of the map's side.
_WINDOWS = (7, 5, 3)
_BORDER = 9
# Concentration below which a place is no candidate.
WEAK = 0.1


@dataclass(frozen=True, eq=False)
class Place:
    """Part of a map: the pixels of a mask, or one channel; `area` is the share of the map that it covers."""

    name: str
    mask: np.ndarray | None
    channel: int | None
    area: float

    @property
    def kind(self):
        """One of "window", "border" and "channel"."""
        if self.mask is None:
            return "channel"
        return "border" if self.name == "border" else "window"

    def share(self, mean_map):
        """Return the share of a map's relevance in this place; the map sums to 1."""
        part = mean_map[self.channel] if self.mask is None else mean_map[:, self.mask]
        return float(part.sum())


def places_of(shape):
    """Return all places of maps of a shape (channels, height, width)."""
    n_channels, height, width = shape
    places = []
    sides = {(max(1, round(height / part)), max(1, round(width / part))) for part in _WINDOWS}
    for rows, columns in sorted(sides):
        tops = range(0, height - rows + 1, max(1, rows // 3))
        lefts = range(0, width - columns + 1, max(1, columns // 3))
        for top, left in product(tops, lefts):
            mask = np.zeros((height, width), dtype=bool)
            mask[top : top + rows, left : left + columns] = True
            third_down = int(3 * (top + rows / 2) / height)
            third_across = int(3 * (left + columns / 2) / width)
            places.append(Place(_NAMES[third_down][third_across], mask, None, mask.mean()))
    border = np.ones((height, width), dtype=bool)
    rim = max(1, round(height / _BORDER)), max(1, round(width / _BORDER))
    border[rim[0] : height - rim[0], rim[1] : width - rim[1]] = False
    if not border.all():
        places.append(Place("border", border, None, border.mean()))
    if n_channels > 1:
        names = _COLORS if n_channels == 3 else [f"no. {channel}" for channel in range(n_channels)]
        places += [
            Place(f"{name} channel", None, channel, 1 / n_channels) for channel, name in enumerate(names)
        ]
    return places


def concentration(place, mean_map, mean_map_outside):
    """Return how much more relevance sits in a place than it does in other images, by the square root of its area."""
    return (place.share(mean_map) - place.share(mean_map_outside)) / np.sqrt(place.area)


def most_concentrated(places, mean_map, mean_map_outside):
    """Return the place of each kind where the concentration is largest; weak ones only if there is no other."""
    found = {}
    for place in places:
        value = concentration(place, mean_map, mean_map_outside)
        if value > found.get(place.kind, (-np.inf, None))[0]:
            found[place.kind] = value, place
    ranked = sorted(found.values(), key=lambda pair: -pair[0])
    return [place for value, place in ranked if value >= WEAK] or [ranked[0][1]]


def mean_maps(maps, keys, block=1024):
    """Return the mean of the unit-sum maps of each key, and of all other maps."""
    n_keys = int(keys.max()) + 1
    sums = np.zeros((n_keys, *maps.shape[1:]))
    total = np.zeros(maps.shape[1:])
    # Block by block, because a float64 copy of all maps may exceed the memory.
    for start in range(0, len(maps), block):
        part = unit_sum(maps[start : start + block])
        part_keys = keys[start : start + block]
        total += part.sum(axis=0)
        for key in range(n_keys):
            sums[key] += part[part_keys == key].sum(axis=0)
    sizes = np.bincount(keys[keys >= 0], minlength=n_keys).reshape(-1, 1, 1, 1)
    outside = np.maximum(len(keys) - sizes, 1)
    return sums / np.maximum(sizes, 1), (total - sums) / outside


def center_and_spread(mean_map):
    """Return the center of a map (x, y) and its spread around it, in parts of the image's sides."""
    plane = mean_map.sum(axis=0)
    y, x = ((np.indices(plane.shape) + 0.5).T / plane.shape).T
    center_x, center_y = (float((plane * axis).sum()) for axis in (x, y))
    variance = (plane * ((x - center_x) ** 2 + (y - center_y) ** 2)).sum()
    return center_x, center_y, float(np.sqrt(max(variance, 0)))
