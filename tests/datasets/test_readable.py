import pickle

import numpy as np
import pytest

from skexmap.datasets import readable_images
from skexmap.datasets._readable import looks_readable
from skexmap.exceptions import UnreadableImagesError

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(params=["jpg", "png"])
def path(tmp_path, request):
    pixels = np.random.default_rng(0).integers(0, 255, size=(24, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"image.{request.param}")
    return tmp_path / f"image.{request.param}"


def read_by_both(path):
    (decoded,) = readable_images([path])
    assert looks_readable(path) == decoded
    return decoded


def test_a_whole_image_is_readable_also_with_bytes_after_its_end(path):
    assert read_by_both(path)
    path.write_bytes(path.read_bytes() + bytes(100))
    assert read_by_both(str(path))


def test_an_image_of_another_format_is_readable(path):
    other = path.with_suffix(".bmp")
    Image.open(path).save(other)
    assert read_by_both(other)
    other.write_bytes(other.read_bytes()[:500])
    assert not read_by_both(other)


@pytest.mark.parametrize("n_bytes", [0, 1, 100, -100])
def test_an_image_cut_short_is_not_readable(path, n_bytes):
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert not read_by_both(path)


def test_text_an_absent_file_and_a_folder_are_not_readable_images(path):
    path.write_text("<html>404</html>")
    for other in (path, path.parent / "absent.jpg", path.parent):
        assert not read_by_both(other)


def test_damage_in_the_middle_of_a_file_is_found_by_decoding_alone(path):
    content = path.read_bytes()
    path.write_bytes(content[:8] + content[-16:])
    assert looks_readable(path)
    assert not readable_images([path])[0]


def test_the_mask_has_an_entry_for_each_path_in_their_order(path):
    mask = readable_images(np.array([str(path), "/nowhere.jpg", str(path)]))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, [True, False, True])
    assert readable_images([]).shape == (0,)


def test_the_error_of_unreadable_images_keeps_its_indices_when_pickled():
    error = pickle.loads(pickle.dumps(UnreadableImagesError("two", np.array([1, 2]))))
    assert str(error) == "two"
    np.testing.assert_array_equal(error.indices, [1, 2])
