import numpy as np
import pytest
from numpy.testing import assert_allclose

from skexmap.report._places import (
    center_and_spread,
    concentration,
    mean_maps,
    most_concentrated,
    places_of,
)


def map_with(rows, columns, shape=(1, 21, 21)):
    """Return a map whose relevance lies in some pixels."""
    values = np.zeros(shape)
    values[:, rows, columns] = 1
    return values / values.sum()


EVEN = np.full((1, 21, 21), 1 / 441)


@pytest.mark.parametrize(
    "row, column, name",
    [
        (1, 1, "top left corner"),
        (1, 10, "top"),
        (1, 19, "top right corner"),
        (10, 1, "left side"),
        (10, 10, "center"),
        (10, 19, "right side"),
        (19, 1, "bottom left corner"),
        (19, 10, "bottom"),
        (19, 19, "bottom right corner"),
    ],
)
def test_a_spot_is_named_after_where_it_is(row, column, name):
    spot = map_with(slice(row - 1, row + 2), slice(column - 1, column + 2))
    place = most_concentrated(places_of((1, 21, 21)), spot, EVEN)[0]
    assert place.name == name
    assert_allclose(place.area, 9 / 441)
    assert_allclose(place.share(spot), 1)


def test_relevance_along_the_edges_is_the_borders():
    rim = np.ones((1, 18, 18))
    rim[:, 2:-2, 2:-2] = 0
    place = most_concentrated(places_of((1, 18, 18)), rim / rim.sum(), np.full((1, 18, 18), 1 / 324))[0]
    assert (place.name, place.kind) == ("border", "border")
    assert_allclose(place.area, 1 - 14**2 / 18**2)


def test_relevance_in_one_color_is_its_channels():
    green = np.zeros((3, 9, 9))
    green[1] = 1 / 81
    place = most_concentrated(places_of((3, 9, 9)), green, np.full((3, 9, 9), 1 / 243))[0]
    assert (place.name, place.kind) == ("green channel", "channel")
    assert_allclose(concentration(place, green, np.full((3, 9, 9), 1 / 243)), (2 / 3) / np.sqrt(1 / 3))


def test_gray_maps_have_no_color_and_tiny_maps_have_places():
    assert not any(place.kind == "channel" for place in places_of((1, 21, 21)))
    assert {place.name for place in places_of((1, 2, 2))} >= {"top left corner", "bottom right corner"}
    assert len(places_of((3, 1, 1))) == 4


def test_windows_of_maps_that_are_not_square_cover_all_of_them():
    places = [place for place in places_of((1, 30, 12)) if place.kind == "window"]
    assert np.any([place.mask for place in places], axis=0).all()
    assert len({place.name for place in places}) == 9


def test_center_and_spread_of_two_points():
    values = np.zeros((1, 10, 10))
    values[0, 0, 4] = values[0, 0, 8] = 0.5
    # The points are at x = 0.45 and x = 0.85, and at y = 0.05.
    assert_allclose(center_and_spread(values), (0.65, 0.05, 0.2))


def test_every_image_weighs_the_same_in_a_mean_map_whatever_its_scale_and_sign():
    maps = np.zeros((4, 1, 2, 2), dtype=np.float32)
    maps[0, 0, 0, 0], maps[1, 0, 1, 1], maps[2, 0, 0, 1] = 100, -0.01, 5
    inside, outside = mean_maps(maps, np.array([0, 0, 1, -1]), block=2)
    assert_allclose(inside[0, 0], [[0.5, 0], [0, 0.5]])
    # A map of zeros is spread evenly.
    assert_allclose(outside[0, 0], [[0.125, 0.625], [0.125, 0.125]])
    assert_allclose(inside[1, 0], [[0, 1], [0, 0]])
