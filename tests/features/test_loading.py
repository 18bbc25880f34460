"""Where images come from: files, data sets, memory maps and callables."""

import pickle
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from small_nets import SHOWN, CountingNet, SmallNet
from torch.utils.data import Dataset

from skexmap.datasets import ImageNetTransform, readable_images
from skexmap.exceptions import UnreadableImagesError
from skexmap.features import EmbeddingTransformer, HeatmapTransformer, ImageLoader


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, size=(7, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def images(pixels):
    return (pixels.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)


@pytest.fixture
def paths(pixels, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for i, values in enumerate(pixels):
        Image.fromarray(values).save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(len(pixels))]


def halve(image):
    """Return a PIL image as a tensor of half its side."""
    return torch.from_numpy(np.asarray(image.resize((8, 8)))[::2, ::2].transpose(2, 0, 1) / np.float32(255))


def shifted(item):
    """Return an image plus one: a load callable that workers can import."""
    return torch.as_tensor(item) + 1


class Squares(Dataset):
    """Ten images, the i-th filled with i squared, with their index as the label."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return torch.full((3, 8, 8), float(i) ** 2), i


@pytest.mark.parametrize("kind", [list, np.array, lambda p: np.array([Path(x) for x in p], dtype=object)])
def test_file_paths_are_opened_with_pillow(paths, images, kind):
    found = HeatmapTransformer(SmallNet(), size=4).fit_transform(kind(paths))
    assert_array_equal(found, HeatmapTransformer(SmallNet(), size=4).fit_transform(images))


def test_paths_in_a_data_frame_column_are_taken(paths, images):
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(paths, index=range(100, 107))
    found = EmbeddingTransformer(SmallNet()).fit_transform(column)
    assert_array_equal(found, EmbeddingTransformer(SmallNet()).fit_transform(images))


def test_gray_and_transparent_files_become_rgb(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    Image.new("L", (4, 4), 51).save(tmp_path / "gray.png")
    Image.new("RGBA", (4, 4), (51, 0, 0, 0)).save(tmp_path / "clear.png")
    assert ImageLoader()(tmp_path / "gray.png")[:, 0, 0].tolist() == pytest.approx([0.2, 0.2, 0.2])
    assert ImageLoader()(tmp_path / "clear.png").shape == (3, 4, 4)


@pytest.mark.parametrize("container", ["array", "pandas", "polars"])
def test_paths_in_a_table_are_refused_with_what_to_pass(paths, container):
    table = np.array(paths)[:, None]
    if container != "array":
        table = pytest.importorskip(container).DataFrame({"path": [str(path) for path in paths]})
    with pytest.raises(ValueError, match=rf"shape \(n_samples,\), got \({len(paths)}, 1\).* X\['path'\]"):
        HeatmapTransformer(SmallNet()).fit(table)


def test_numbers_as_text_are_no_paths():
    table = np.random.RandomState(0).uniform(size=(6, 12)).round(3)
    expected = EmbeddingTransformer(torch.nn.Linear(12, 2)).fit(table).n_features_in_
    found = EmbeddingTransformer(torch.nn.Linear(12, 2)).fit(table.astype(str).astype(object)).n_features_in_
    assert found == expected == 12


def test_a_transform_is_applied_to_each_image(paths, pixels):
    transformer = HeatmapTransformer(SmallNetOf4(), load=ImageLoader(halve), size=None).fit(paths)
    assert transformer.image_shape_ == (3, 4, 4)
    expected = (pixels.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)[:, :, ::2, ::2]
    assert_array_equal(transformer.transform(paths), transformer.set_params(load=None).transform(expected))


class SmallNetOf4(SmallNet):
    """SmallNet for images of side 4."""

    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(16, 5)


def test_any_torch_data_set_can_be_read_by_index():
    dataset = Squares()
    found = EmbeddingTransformer(SmallNet(), load=dataset).fit_transform(np.array([4, 1, 9]))
    stacked = np.stack([dataset[i][0] for i in (4, 1, 9)])
    assert_array_equal(found, EmbeddingTransformer(SmallNet()).fit_transform(stacked))


def test_a_load_callable_is_applied_to_each_item(images):
    found = EmbeddingTransformer(SmallNet(), load=shifted).fit_transform(images)
    assert_array_equal(found, EmbeddingTransformer(SmallNet()).fit_transform(images + 1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_worker_processes_change_nothing(paths, images, num_workers):
    found = EmbeddingTransformer(SmallNet(), num_workers=num_workers, batch_size=3).fit_transform(paths)
    assert_array_equal(found, EmbeddingTransformer(SmallNet(), batch_size=3).fit_transform(images))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BREAKAGES = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "not an image": lambda path: path.write_text("<html>404</html>"),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("breaks", BREAKAGES.values(), ids=BREAKAGES)
@pytest.mark.parametrize("load", [None, ImageLoader(), ImageNetTransform(8, 8)])
def test_unreadable_files_of_every_kind_are_refused_by_name(paths, breaks, load):
    breaks(Path(paths[4]))
    with pytest.raises(UnreadableImagesError, match=r"1 of 7 images cannot be .*: '.*4\.png'\. Repair"):
        HeatmapTransformer(SmallNet(), load=load).fit_transform(paths)


def test_one_error_has_all_unreadable_files_before_the_model_sees_an_image(paths):
    transformer = EmbeddingTransformer(CountingNet(), batch_size=2).fit(paths)
    for path in paths[1:]:
        truncate(Path(path))
    SHOWN.clear()
    for method in (transformer.transform, transformer.fit, transformer.fit_transform):
        with pytest.raises(UnreadableImagesError, match=r"6 of 7 .*1\.png.*5\.png' and 1 more\.") as caught:
            method(np.array(paths))
        assert_array_equal(caught.value.indices, [1, 2, 3, 4, 5, 6])
    assert not SHOWN


def test_unreadable_masks_are_refused_with_the_rows_of_their_images(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    paths = [tmp_path / f"{i}.jpg" for i in range(4)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
        Image.new("L", (8, 8), 255).save(path.with_suffix(".png"))
    load = ImageNetTransform(8, 8, foreground_only=True)
    transformer = EmbeddingTransformer(SmallNet(), load=load).fit(paths)
    paths[1].with_suffix(".png").unlink()
    truncate(paths[3])
    with pytest.raises(UnreadableImagesError, match=r"2 of 4 images .*1\.png', '.*3\.jpg'") as caught:
        transformer.transform(paths)
    assert_array_equal(caught.value.indices, [1, 3])


def test_the_readable_images_can_be_fitted_on(paths):
    paths = np.array(paths)
    truncate(Path(paths[2]))
    ok = readable_images(paths)
    found = EmbeddingTransformer(SmallNet()).fit_transform(paths[ok])
    with pytest.raises(UnreadableImagesError) as caught:
        EmbeddingTransformer(SmallNet()).fit(paths)
    others = np.delete(paths, caught.value.indices)
    assert_array_equal(found, EmbeddingTransformer(SmallNet()).fit_transform(others))


def item_5_fails(item):
    """Load nothing for the item 5; a load callable that workers can import."""
    if item == 5:
        raise KeyError("no such item")
    return torch.full((3, 8, 8), float(item))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_a_load_callable_names_the_image(num_workers):
    transformer = EmbeddingTransformer(SmallNet(), load=item_5_fails, batch_size=4, num_workers=num_workers)
    transformer.fit(np.arange(4))
    with pytest.raises(ValueError, match=r"Could not load image 6 \(5\): KeyError: 'no such item'"):
        transformer.transform(np.array([0, 1, 2, 3, 4, 6, 5]))


def test_images_of_different_sizes_are_refused_with_the_odd_one(paths):
    Image = pytest.importorskip("PIL.Image")
    Image.new("RGB", (9, 8)).save(paths[2])
    with pytest.raises(
        ValueError, match=r"Images differ in shape.*\(3, 8, 9\).*first difference at index 2.*ImageLoader"
    ):
        HeatmapTransformer(SmallNet()).fit(paths)


def test_images_of_another_size_in_a_later_batch_are_refused(paths):
    Image = pytest.importorskip("PIL.Image")
    Image.new("RGB", (9, 8)).save(paths[6])
    with pytest.raises(
        ValueError, match=r"Image 6 has shape \(3, 8, 9\), but HeatmapTransformer was fitted on"
    ):
        HeatmapTransformer(SmallNet(), batch_size=2).fit(paths[:4]).transform(paths)


def test_loaders_can_be_pickled():
    assert pickle.loads(pickle.dumps(ImageLoader(halve))).transform is halve


def test_only_one_batch_of_images_is_loaded_at_a_time():
    class Watched:
        """Remembers how many images are alive."""

        alive, most = 0, 0

        def __call__(self, i):
            image = torch.full((3, 8, 8), float(i))
            Watched.alive += 1
            Watched.most = max(Watched.most, Watched.alive)
            weakref.finalize(image, self.forget)
            return image

        @staticmethod
        def forget():
            Watched.alive -= 1

    transformer = EmbeddingTransformer(SmallNet(), load=Watched(), batch_size=5).fit(np.arange(40))
    Watched.most = 0
    transformer.transform(np.arange(40))
    assert Watched.most <= 10


def test_fit_shows_the_model_a_few_images_only(images):
    many = np.concatenate([images] * 10)
    SHOWN.clear()
    HeatmapTransformer(CountingNet(), batch_size=64).fit(many)
    assert max(SHOWN) <= 8
