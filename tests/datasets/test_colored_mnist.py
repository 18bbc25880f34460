import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from skexmap.datasets import load_colored_mnist, load_two_shortcut_fashion
from skexmap.metrics import shortcut_gaps

FASHION = Path("/usr/share/datasets/fashion-mnist")
LOADERS = [load_colored_mnist, load_two_shortcut_fashion]


def channels_with_ink(images):
    return images.any(axis=(2, 3))


@pytest.mark.parametrize("zipped, dotted", [(False, False), (True, False), (False, True)])
def test_the_pixels_are_those_of_the_file_in_one_channel(mnist_tree, zipped, dotted):
    root, held = mnist_tree(zipped=zipped, dotted=dotted)
    train = load_colored_mnist(root, random_state=0).train
    images, labels = held["train"]
    assert train.data.dtype == np.float32
    for image, source, ink in zip(train.data, images, train.attributes, strict=False):
        channel = {0: 1, 1: 0}[ink]
        np.testing.assert_allclose(image[channel], source / 255, rtol=1e-6)
        assert not np.delete(image, channel, axis=0).any()
    np.testing.assert_array_equal(train.label, labels[:100])


def test_five_sixths_train_and_the_rest_validates(mnist_tree):
    root, held = mnist_tree()
    mnist = load_colored_mnist(root)
    np.testing.assert_array_equal(mnist.train.label, held["train"][1][:100])
    np.testing.assert_array_equal(mnist.validation.label, held["train"][1][100:])


@pytest.mark.parametrize("split_at", [4, 6])
def test_the_class_is_whether_the_label_is_above_split_at(mnist_tree, split_at):
    root, _ = mnist_tree()
    for split in load_colored_mnist(root, split_at=split_at).values():
        np.testing.assert_array_equal(split.target, [int(label) > split_at for label in split.label])


@pytest.mark.parametrize("correlation", [0.5, 0.9, 1.0])
def test_the_ink_agrees_with_the_class_at_exactly_the_chosen_rate(mnist_tree, correlation):
    root, _ = mnist_tree()
    mnist = load_colored_mnist(root, correlation=correlation, random_state=1)
    for name in ("train", "validation", "test_correlated"):
        split = mnist[name]
        for c in (0, 1):
            agrees = split.attributes[split.target == c] == c
            assert agrees.sum() == round(correlation * len(agrees))


def test_every_test_image_comes_in_both_inks(mnist_tree):
    root, held = mnist_tree()
    test = load_colored_mnist(root).test
    assert len(test.data) == 2 * len(held["t10k"][0])
    np.testing.assert_array_equal(test.data[:40, [1, 0, 2]], test.data[40:])
    np.testing.assert_array_equal(np.bincount(test.group_labels), [20, 20, 20, 20])


def test_the_mark_is_a_white_square_in_the_corner_it_names(mnist_tree):
    root, _ = mnist_tree()
    train = load_two_shortcut_fashion(root, ink_correlation=0.8, mark_correlation=0.7, random_state=0).train
    assert set(train.mark) == {0, 1}
    for image, mark in zip(train.data, train.mark, strict=True):
        corner, other = image[:, :4, :4], image[:, -4:, -4:]
        marked, unmarked = (corner, other) if mark == 0 else (other, corner)
        assert (marked == 1).all()
        assert not unmarked[2].any()


def test_outside_the_corners_a_marked_image_is_the_coloured_one(mnist_tree):
    root, held = mnist_tree()
    split = load_two_shortcut_fashion(root, random_state=0).test
    sources = np.tile(held["t10k"][0], (4, 1, 1)) / 255
    middle = np.s_[:, :, 4:-4, 4:-4]
    np.testing.assert_allclose(split.data[middle].max(axis=1), sources[:, 4:-4, 4:-4], rtol=1e-6)


def test_given_the_class_ink_and_mark_each_agree_at_their_own_rate(mnist_tree):
    root, _ = mnist_tree()
    train = load_two_shortcut_fashion(root, ink_correlation=0.9, mark_correlation=0.6, random_state=0).train
    for c in (0, 1):
        members = train.target == c
        assert (train.ink[members] == c).sum() == 45
        assert (train.mark[members] == c).sum() == 30
    np.testing.assert_array_equal(
        train.attributes,
        [
            {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 3}[pair]
            for pair in zip(train.ink, train.mark, strict=True)
        ],
    )


def test_every_test_image_comes_in_all_four_looks(mnist_tree):
    root, _ = mnist_tree()
    test = load_two_shortcut_fashion(root).test
    np.testing.assert_array_equal(np.bincount(test.group_labels), [20] * 8)
    looks = {(a, b) for a, b in zip(test.ink, test.mark, strict=True)}
    assert looks == set(itertools.product((0, 1), (0, 1)))


def test_ink_and_mark_are_what_shortcut_gaps_takes(mnist_tree):
    root, _ = mnist_tree()
    test = load_two_shortcut_fashion(root).test
    gaps = shortcut_gaps(test.target, test.ink, shortcuts={"ink": test.ink, "mark": test.mark})
    # Who follows the ink is right on half of the images, and never where the ink is uncommon.
    assert gaps["mean_accuracy"] == pytest.approx(0.5)
    assert gaps["ink"] == pytest.approx(-0.5)
    assert gaps["mark"] == pytest.approx(0.5)


@pytest.mark.parametrize("load", LOADERS)
def test_a_seed_fixes_the_data_and_another_changes_the_inks(mnist_tree, load):
    root, _ = mnist_tree()
    correlations = {"correlation": 0.8} if load is load_colored_mnist else {"ink_correlation": 0.8}
    first, again, other = (load(root, random_state=seed, **correlations) for seed in (0, 0, 1))
    for name in first:
        np.testing.assert_array_equal(first[name].data, again[name].data)
    assert not np.array_equal(first.train.attributes, other.train.attributes)


@pytest.mark.parametrize("load", LOADERS)
def test_missing_idx_files_are_named_in_one_error(mnist_tree, load):
    root, _ = mnist_tree()
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (root / name).unlink()
    match = r"2 of 4 .* missing: .*train-labels-idx1-ubyte, .*t10k-images-idx3-ubyte\. Give as `root`"
    with pytest.raises(FileNotFoundError, match=match):
        load(root)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_truncated_idx_file_is_refused_by_name(mnist_tree, zipped):
    root, _ = mnist_tree(zipped=zipped)
    path = next(root.glob("t10k-images*"))
    content = path.read_bytes()
    for n_bytes in (0, 3, 9, len(content) - 100):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} is not a whole IDX file"):
            load_colored_mnist(root)


def test_a_gzip_file_with_damage_inside_is_refused_by_name(mnist_tree):
    root, _ = mnist_tree(zipped=True)
    path = next(root.glob("train-images*"))
    content = bytearray(path.read_bytes())
    # The first byte after the header of ten holds the type of the compressed block; the type 3 does not exist.
    content[10] |= 0b110
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is not a whole IDX file"):
        load_colored_mnist(root)


def test_a_file_of_another_format_is_refused_by_name(mnist_tree):
    root, _ = mnist_tree()
    path = root / "train-images-idx3-ubyte"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(
        ValueError, match="train-images-idx3-ubyte is not a whole IDX file of unsigned bytes: it starts"
    ):
        load_colored_mnist(root)


def test_labels_of_another_number_than_images_are_refused(mnist_tree):
    root, _ = mnist_tree()
    (root / "t10k-labels-idx1-ubyte").write_bytes((root / "train-labels-idx1-ubyte").read_bytes())
    with pytest.raises(ValueError, match=r"\(40, 28, 28\).*\(120,\).*not images and a label for each"):
        load_colored_mnist(root)


@pytest.mark.parametrize(
    "load, parameters, message",
    [
        (load_colored_mnist, {"correlation": 1.1}, "correlation == 1.1, must be <= 1"),
        (load_colored_mnist, {"correlation": float("nan")}, "correlation == nan, must be from 0 to 1"),
        (load_colored_mnist, {"split_at": 9}, "split_at == 9, must be <= 8"),
        (load_two_shortcut_fashion, {"ink_correlation": -1.0}, "ink_correlation == -1.0, must be >= 0"),
        (load_two_shortcut_fashion, {"mark_correlation": 2.0}, "mark_correlation == 2.0, must be <= 1"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(mnist_tree, load, parameters, message):
    root, _ = mnist_tree()
    with pytest.raises(ValueError, match=message):
        load(root, **parameters)


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_published_fashion_mnist_has_50000_10000_and_10000_images():
    fashion = load_colored_mnist(FASHION, random_state=0)
    sizes = {name: np.bincount(split.group_labels).tolist() for name, split in fashion.items()}
    # 60,000 and 10,000 balanced labels; the 50,000 and 10,000 are not exactly balanced.
    assert {name: sum(counts) for name, counts in sizes.items()} == {
        "train": 50_000,
        "validation": 10_000,
        "test": 20_000,
        "test_correlated": 10_000,
    }
    assert sizes["test"] == [5000] * 4
    assert sizes["test_correlated"] == [4950, 50, 50, 4950]
    for name in ("train", "validation"):
        rare = np.array(sizes[name])[[1, 2]]
        assert abs(rare / sum(sizes[name]) - 0.005).max() < 2e-4
