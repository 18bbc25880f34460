import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from skexmap.datasets import ImageNetTransform, readable_images
from skexmap.datasets._readable import as_rgb, looks_readable, open_image, pixels_of
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


@pytest.mark.parametrize(
    "name, dtype, value, share",
    [
        ("a.png", np.uint8, 102, 0.4),
        ("a.png", np.uint16, 26214, 0.4),
        ("a.png", np.uint16, 300, 300 / 65535),
        ("a.tiff", np.uint16, 65535, 1.0),
        ("a.tiff", ">u2", 26214, 0.4),
        ("a.tiff", np.float32, 0.4, 0.4),
    ],
)
def test_the_largest_value_of_each_depth_is_one(tmp_path, name, dtype, value, share):
    Image.fromarray(np.full((8, 8), value, dtype=dtype)).save(tmp_path / name)
    image = open_image(tmp_path / name)
    np.testing.assert_allclose(pixels_of(image), np.full((3, 8, 8), share), rtol=1e-6)
    assert as_rgb(image).getpixel((0, 0)) == (round(share * 255),) * 3
    standardized = ImageNetTransform(8, 8)(tmp_path / name)[:, 0, 0]
    expected = (share - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(standardized, expected, rtol=1e-4)


@pytest.mark.parametrize("largest", [65535, 4095, 255])
def test_the_largest_value_that_a_pgm_names_is_one(tmp_path, largest):
    values = np.full(64, 0.4 * largest).astype(np.uint8 if largest < 256 else ">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5\n8 8\n%d\n" % largest + values.tobytes())
    np.testing.assert_allclose(pixels_of(open_image(tmp_path / "a.pgm")), np.full((3, 8, 8), 0.4), atol=1e-3)


@pytest.mark.parametrize(
    "values, match",
    [
        (np.full((8, 8), 1.5, np.float32), "floats from 1.5 to 1.5; scale them"),
        (np.full((8, 8), -0.5, np.float32), "floats from -0.5"),
        (np.full((8, 8), np.nan, np.float32), "floats from nan"),
        (np.full((8, 8), 7, np.int32), "integers of 32 bits"),
    ],
)
def test_pixels_of_unknown_scale_are_refused_by_name(tmp_path, values, match):
    Image.fromarray(values).save(tmp_path / "odd.tiff")
    with pytest.raises(UnreadableImagesError, match=rf"odd\.tiff' cannot be read: ValueError: .*{match}"):
        open_image(tmp_path / "odd.tiff")
    assert not read_by_both(tmp_path / "odd.tiff")


@pytest.mark.parametrize(
    "mode, name", [("L", "g.png"), ("1", "b.png"), ("CMYK", "c.jpg"), ("RGBA", "a.png"), ("P", "p.gif")]
)
def test_every_mode_becomes_rgb_of_the_same_color(tmp_path, mode, name):
    picture = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    picture.save(tmp_path / name, **({"transparency": bytes([9] * 256)} if mode == "P" else {}))
    image = open_image(tmp_path / name)
    assert (image.mode, image.getpixel((3, 3))) == ("RGB", (255, 255, 255))


def test_a_photo_is_turned_upright_and_the_first_image_of_an_animation_is_taken(tmp_path):
    picture = Image.new("RGB", (8, 4), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by 90 degrees.
    picture.save(tmp_path / "photo.jpg", exif=exif)
    assert open_image(tmp_path / "photo.jpg").size == (4, 8)
    others = [Image.new("RGB", (8, 4), (0, 0, 255))]
    picture.save(tmp_path / "moving.gif", save_all=True, append_images=others)
    assert open_image(tmp_path / "moving.gif").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("limit", [200, 479])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_picture_beyond_the_limit_of_pillow_is_refused_until_the_limit_is_raised(
    path, monkeypatch, limit, action
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(
            UnreadableImagesError,
            match=r"480 pixels.* limit of .*set `PIL\.Image\.MAX_IMAGE_PIXELS` higher, or to None",
        ):
            open_image(path)
    for higher in (480, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", higher)
        assert open_image(path).size == (20, 24)


@pytest.mark.parametrize("name", ["\u00e4\u4e2d \U0001f408.png", "two\nlines.png"])
@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_a_name_of_any_kind_is_opened_and_shown_on_one_line(path, name, kind):
    other = kind(str(path.parent / name))
    Image.open(path).save(os.fsdecode(other))
    assert read_by_both(other)
    Path(os.fsdecode(other)).write_bytes(b"")
    with pytest.raises(UnreadableImagesError, match=r"^[^\n]+ cannot be read"):
        open_image(other)


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert not read_by_both(tmp_path / "pipe.png")
