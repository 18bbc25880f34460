import pickle

import numpy as np
import pytest

from skexmap.datasets import ImageNetTransform

Image = pytest.importorskip("PIL.Image")


def test_the_transform_is_torchvisions_resize_crop_and_normalize(tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")
    pixels = np.random.RandomState(0).randint(256, size=(300, 280, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    published = transforms.Compose(
        [
            transforms.Resize((256, 256)),
            transforms.CenterCrop((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with Image.open(tmp_path / "noise.png") as image:
        expected = published(image.convert("RGB")).numpy()
        np.testing.assert_allclose(ImageNetTransform()(image), expected, atol=1e-6)
    np.testing.assert_allclose(ImageNetTransform()(tmp_path / "noise.png"), expected, atol=1e-6)


def test_equal_transforms_pickle_to_equal_bytes():
    first, again = ImageNetTransform(64, 56), ImageNetTransform(64, 56)
    assert (first, hash(first)) == (again, hash(again))
    assert pickle.dumps(first) == pickle.dumps(again)
    assert first != ImageNetTransform(64, 56, foreground_only=True)
    assert pickle.loads(pickle.dumps(first)) == first


@pytest.mark.parametrize("crop", [0, 257])
def test_a_crop_must_fit_into_the_resized_image(crop):
    with pytest.raises(ValueError, match=f"square of {crop} pixels cannot be cut out of 256 x 256"):
        ImageNetTransform(crop=crop)


def test_a_masked_image_needs_its_path():
    with pytest.raises(ValueError, match="pass the path instead of the image"):
        ImageNetTransform(foreground_only=True)(Image.new("RGB", (8, 8)))


@pytest.fixture
def image_and_mask(tmp_path):
    """An image of one color, and a mask of three vertical bands of 255, 200 and 201."""
    Image.new("RGB", (24, 20), (200, 30, 60)).save(tmp_path / "image.jpg")
    mask = np.zeros((20, 24), dtype=np.uint8)
    mask[:, :8], mask[:, 8:16], mask[:, 16:] = 255, 200, 201
    Image.fromarray(mask).save(tmp_path / "image.png")
    return tmp_path / "image.jpg", tmp_path / "image.png"


def test_pixels_are_black_if_the_mask_is_at_most_200(image_and_mask):
    path, _ = image_and_mask
    plain, masked = ImageNetTransform()(path), ImageNetTransform(foreground_only=True)(path)
    black = (np.zeros(3) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    # Resizing mixes a few columns at each border of the three bands.
    np.testing.assert_allclose(masked[:, :, :60], plain[:, :, :60], atol=1e-6)
    np.testing.assert_allclose(masked[:, :, 90:140], black[:, None, None] * np.ones((3, 224, 50)), atol=1e-6)
    np.testing.assert_allclose(masked[:, :, 170:], plain[:, :, 170:], atol=1e-6)


def test_a_mask_of_another_size_than_its_image_is_refused(image_and_mask):
    path, mask = image_and_mask
    Image.new("L", (10, 10), 255).save(mask)
    with pytest.raises(ValueError, match=r"has the size \(10, 10\), its image .* \(24, 20\)"):
        ImageNetTransform(foreground_only=True)(path)


def test_a_png_image_is_not_taken_for_its_own_mask(image_and_mask):
    _, mask = image_and_mask
    with pytest.raises(ValueError, match=r"image\.png is a PNG file, and so would be its own mask"):
        ImageNetTransform(foreground_only=True)(mask)
