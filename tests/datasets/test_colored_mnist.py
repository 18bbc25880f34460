from pathlib import Path

import numpy as np
import pytest

from skexmap.datasets import load_colored_mnist, load_two_shortcut_fashion
from skexmap.metrics import shortcut_gaps

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.parametrize("zipped, dotted", [(False, False), (True, False), (False, True)])
def test_five_sixths_of_the_images_are_trained_on_each_in_the_channel_of_its_ink(mnist_tree, zipped, dotted):
    root, held = mnist_tree(zipped=zipped, dotted=dotted)
    mnist = load_colored_mnist(root, random_state=0)
    images, labels = held["train"]
    for split, rows in ((mnist.train, np.s_[:100]), (mnist.validation, np.s_[100:])):
        assert split.data.dtype == np.float32
        np.testing.assert_array_equal(split.label, labels[rows])
        for image, source, ink in zip(split.data, images[rows], split.attributes, strict=True):
            channel = {0: 1, 1: 0}[ink]
            np.testing.assert_allclose(image[channel], source / 255, rtol=1e-6)
            assert not np.delete(image, channel, axis=0).any()


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


def test_given_the_class_ink_and_mark_each_agree_at_their_own_rate(mnist_tree):
    root, _ = mnist_tree()
    train = load_two_shortcut_fashion(root, ink_correlation=0.9, mark_correlation=0.6, random_state=0).train
    for c in (0, 1):
        members = train.target == c
        assert (train.ink[members] == c).sum() == 45
        assert (train.mark[members] == c).sum() == 30
    np.testing.assert_array_equal(train.attributes, 2 * train.ink + train.mark)


@pytest.mark.parametrize("load, n_looks", [(load_colored_mnist, 2), (load_two_shortcut_fashion, 4)])
def test_every_test_image_comes_in_every_look(mnist_tree, load, n_looks):
    root, held = mnist_tree()
    test = load(root).test
    np.testing.assert_array_equal(test.label, np.tile(held["t10k"][1], n_looks))
    np.testing.assert_array_equal(np.bincount(test.group_labels), [20] * 2 * n_looks)
    red, green = test.data[40 * n_looks // 2 :], test.data[: 40 * n_looks // 2]
    np.testing.assert_array_equal(red[:, [1, 0, 2], 4:-4], green[:, :, 4:-4])


def test_the_mark_is_a_white_square_in_the_corner_it_names_on_the_colored_image(mnist_tree):
    root, held = mnist_tree()
    test = load_two_shortcut_fashion(root, random_state=0).test
    sources = np.tile(held["t10k"][0], (4, 1, 1)) / 255
    for image, mark, source in zip(test.data, test.mark, sources, strict=True):
        corner, other = image[:, :4, :4], image[:, -4:, -4:]
        marked, unmarked = (corner, other) if mark == 0 else (other, corner)
        assert (marked == 1).all()
        assert not unmarked[2].any()
        np.testing.assert_allclose(image[:, 4:-4, 4:-4].max(axis=0), source[4:-4, 4:-4], rtol=1e-6)


def test_ink_and_mark_are_what_shortcut_gaps_takes(mnist_tree):
    root, _ = mnist_tree()
    test = load_two_shortcut_fashion(root).test
    gaps = shortcut_gaps(test.target, test.ink, shortcuts={"ink": test.ink, "mark": test.mark})
    # Who follows the ink is right on half of the images, and never where the ink is uncommon.
    assert gaps == pytest.approx({"mean_accuracy": 0.5, "ink": -0.5, "mark": 0.5, "both": -0.5})


def test_a_seed_fixes_the_data_and_another_changes_the_inks(mnist_tree):
    root, _ = mnist_tree()
    first, again, other = (
        load_two_shortcut_fashion(root, ink_correlation=0.8, random_state=seed) for seed in (0, 0, 1)
    )
    for name in first:
        np.testing.assert_array_equal(first[name].data, again[name].data)
    assert not np.array_equal(first.train.attributes, other.train.attributes)


def test_missing_idx_files_are_named_in_one_error(mnist_tree):
    root, _ = mnist_tree()
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (root / name).unlink()
    match = r"2 of 4 .* missing: .*train-labels-idx1-ubyte, .*t10k-images-idx3-ubyte\. Give as `root`"
    with pytest.raises(FileNotFoundError, match=match):
        load_colored_mnist(root)


def damaged_block(content):
    # The first byte after the header of ten holds the type of the compressed block; the type 3 does not exist.
    return content[:10] + bytes([content[10] | 0b110]) + content[11:]


@pytest.mark.parametrize(
    "zipped, damage",
    [
        *((zipped, lambda content, n=n: content[:n]) for zipped in (False, True) for n in (0, 3, 9, -100)),
        (True, damaged_block),
        (False, lambda content: b"<html>not found</html>"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(mnist_tree, zipped, damage):
    root, _ = mnist_tree(zipped=zipped)
    path = next(root.glob("t10k-images*"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path.name} is not a whole IDX file of unsigned bytes"):
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
        (load_colored_mnist, {"split_at": 9}, "split_at == 9, must be <= 8"),
        (load_two_shortcut_fashion, {"ink_correlation": -1.0}, "ink_correlation == -1.0, must be >= 0"),
        (load_two_shortcut_fashion, {"mark_correlation": 2.0}, "mark_correlation == 2.0, must be <= 1"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(mnist_tree, load, parameters, message):
    root, _ = mnist_tree()
    with pytest.raises(ValueError, match=message):
        load(root, **parameters)


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
@pytest.mark.slow
def test_the_published_fashion_mnist_has_50000_10000_and_10000_images():
    fashion = load_colored_mnist(FASHION, random_state=0)
    sizes = {name: np.bincount(split.group_labels) for name, split in fashion.items()}
    assert {name: counts.sum() for name, counts in sizes.items()} == {
        "train": 50_000,
        "validation": 10_000,
        "test": 20_000,
        "test_correlated": 10_000,
    }
    np.testing.assert_array_equal(sizes["test"], [5000] * 4)
    np.testing.assert_array_equal(sizes["test_correlated"], [4950, 50, 50, 4950])
