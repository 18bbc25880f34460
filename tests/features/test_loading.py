"""Where images come from: files, data sets, memory maps and callables."""

import os
import pickle
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from small_nets import SHOWN, CountingNet, SmallNet
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from skexmap.datasets import ImageNetTransform
from skexmap.exceptions import UnreadableImagesError
from skexmap.features import EmbeddingTransformer, HeatmapTransformer, ImageLoader
from skexmap.features._loading import Images, image_batches


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


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_paths_in_a_data_frame_column_are_taken(paths, images, library):
    column = pytest.importorskip(library).Series(paths)
    if library == "pandas":
        column.index = range(100, 107)
    found = EmbeddingTransformer(SmallNet()).fit_transform(column)
    assert_array_equal(found, EmbeddingTransformer(SmallNet()).fit_transform(images))


@pytest.mark.parametrize("columns", [["path"], ["target", "path"], ["path", "target"]])
@pytest.mark.parametrize("container", ["array", "pandas", "polars"])
def test_paths_in_a_table_are_refused_with_what_to_pass(paths, container, columns):
    values = {"path": [str(path) for path in paths], "target": [0] * len(paths)}
    if container == "array":
        table = np.array([values[name] for name in columns], dtype=object).T
    else:
        table = pytest.importorskip(container).DataFrame({name: values[name] for name in columns})
    match = rf"shape \(n_samples,\), got \({len(paths)}, {len(columns)}\).* X\['path'\]"
    with pytest.raises(ValueError, match=match):
        HeatmapTransformer(SmallNet()).fit(table)


def test_numbers_as_text_are_not_paths():
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


class Rows:
    """A data set of Hugging Face as far as this package sees it: rows are dicts, and a column has rows, too."""

    shape = (7, 2)

    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        return {"label": 0, "image": self.pictures[i]}


def opened(paths):
    Image = pytest.importorskip("PIL.Image")
    return [Image.open(path).copy() for path in paths]


def in_object_array(items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def labeled(items):
    return [(item, 1) for item in items]


def of_three_types(images):
    """Return images as floats, bytes and integers of 16 bits in turn."""
    scales = [(1, np.float32), (255, np.uint8), (65535, np.uint16)]
    kinds = (scales * len(images))[: len(images)]
    return [
        (image if scale == 1 else np.rint(image * scale)).astype(kind)
        for image, (scale, kind) in zip(images, kinds, strict=True)
    ]


KINDS = {
    "torch data set": lambda images, paths: TensorDataset(torch.as_tensor(images), torch.arange(7)),
    "subset": lambda images, paths: Subset(TensorDataset(torch.as_tensor(images)), range(7)),
    "rows that are dicts": lambda images, paths: Rows(opened(paths)),
    "pairs of a tensor and a label": lambda images, paths: labeled(torch.as_tensor(images)),
    "pairs of a path and a label": lambda images, paths: labeled(paths),
    "pictures": lambda images, paths: opened(paths),
    "object array": lambda images, paths: in_object_array(list(images)),
    "paths as bytes": lambda images, paths: [os.fsencode(path) for path in paths],
    "array of paths as bytes": lambda images, paths: np.array([os.fsencode(path) for path in paths]),
    "uint8": lambda images, paths: np.rint(images * 255).astype(np.uint8),
    "uint16": lambda images, paths: np.rint(images * 65535).astype(np.uint16),
    "big-endian": lambda images, paths: images.astype(">f4"),
    "arrays of three types": lambda images, paths: of_three_types(images),
    "tensors of three types": lambda images, paths: list(map(torch.from_numpy, of_three_types(images))),
    "object array of three types": lambda images, paths: in_object_array(of_three_types(images)),
    "arrays and pictures": lambda images, paths: of_three_types(images)[:4] + opened(paths)[4:],
}


@pytest.mark.parametrize(
    "kind, by_index", [(kind, by) for kind in KINDS for by in (False, True) if not (by and "path" in kind)]
)
def test_the_same_images_in_any_form_give_the_same_embeddings(paths, images, kind, by_index):
    X, load = KINDS[kind](images, paths), None
    expected = EmbeddingTransformer(SmallNet()).fit_transform(images)
    if by_index:
        X, load = np.arange(7)[::-1], X
        expected = expected[::-1]
    found = EmbeddingTransformer(SmallNet(), load=load, batch_size=3).fit_transform(X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("load", [Squares(), ImageLoader(halve), shifted])
def test_what_workers_get_can_be_pickled(load):
    assert len(pickle.loads(pickle.dumps(Images(np.arange(4), load)))) == 4


def test_a_folder_of_torchvision_is_read_with_its_own_transform(paths, images, tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    (tmp_path / "root" / "one").mkdir(parents=True)
    for path in paths:
        Path(path).rename(tmp_path / "root" / "one" / Path(path).name)
    expected = EmbeddingTransformer(SmallNetOf4()).fit_transform(images[:, :, ::2, ::2])
    folder = datasets.ImageFolder(tmp_path / "root", transform=halve)
    assert_array_equal(EmbeddingTransformer(SmallNetOf4()).fit_transform(folder), expected)
    # Its list of paths and labels is X, too.
    found = EmbeddingTransformer(SmallNetOf4(), load=ImageLoader(halve)).fit_transform(folder.samples)
    assert_array_equal(found, expected)


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.PredictionWarning")
@pytest.mark.filterwarnings("ignore::skexmap.exceptions.PredictionWarning")
@pytest.mark.parametrize("by_index", [False, True])
def test_a_grid_search_splits_a_torch_data_set(images, by_index):
    dataset = TensorDataset(torch.as_tensor(images), torch.arange(7))
    y = np.array([0, 1, 0, 1, 0, 1, 0])
    pipe = make_pipeline(EmbeddingTransformer(SmallNet()), LogisticRegression())
    grid = {"logisticregression__C": [0.1, 1.0]}
    expected = GridSearchCV(pipe, grid, cv=3).fit(images, y).cv_results_["mean_test_score"]
    if by_index:
        pipe.set_params(embeddingtransformer__load=dataset)
    found = GridSearchCV(pipe, grid, cv=3).fit(np.arange(7) if by_index else dataset, y)
    assert_array_equal(found.cv_results_["mean_test_score"], expected)


class Stream(IterableDataset):
    """A data set without rows."""

    def __iter__(self):
        return iter([])


@pytest.mark.parametrize(
    "X, match",
    [
        (DataLoader(Squares()), r"X is a DataLoader.*`loader\.dataset`"),
        (None, "X is None. Pass images"),
        (Stream(), "X is a Stream, which has no rows"),
        ((image for image in ()), "X is a generator, which has no rows"),
        ("a/b.png", r"X is a single path, 'a/b\.png'\. Pass a list of paths, for example \['a/b\.png'\]"),
        (Path("b.png"), r"X is a single path, 'b\.png'"),
        ({"train": Squares()}, r"X is a dict with the keys \['train'\]\. Pass .* X\['train'\]"),
    ],
)
def test_what_has_no_rows_is_refused_with_what_to_pass(X, match):
    with pytest.raises(TypeError, match=match):
        EmbeddingTransformer(SmallNet()).fit(X)


class Reversed(Squares):
    def __getitem__(self, i):
        return super().__getitem__(i)[::-1]


@pytest.mark.parametrize("as_list, load", [(True, None), (False, None), (False, "index")])
def test_pairs_with_the_label_first_are_refused_with_what_to_pass(as_list, load):
    X = list(map(Reversed().__getitem__, range(10))) if as_list else Reversed()
    if load:
        X, load = np.arange(10), X
    match = r"tuples \(0, Tensor of shape \(3, 8, 8\)\) in which the image is not first"
    with pytest.raises((TypeError, ValueError), match=match):
        EmbeddingTransformer(SmallNet(), load=load).fit(X)


@pytest.mark.parametrize("form", [np.asarray, torch.as_tensor, list])
def test_complex_images_are_refused(images, form):
    with pytest.raises(ValueError, match="Complex data not supported"):
        EmbeddingTransformer(SmallNet()).fit(form(images + 1j))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
def test_integers_of_unknown_scale_are_refused_as_pixels_but_not_in_tables(images, dtype):
    with pytest.raises(ValueError, match=rf"integers \({np.dtype(dtype)}\) from 0 to 2\d\d.* X / 255"):
        EmbeddingTransformer(SmallNet()).fit((images * 255).astype(dtype))
    assert EmbeddingTransformer(SmallNet()).fit((images > 0.5).astype(dtype)).image_shape_ == (3, 8, 8)
    table = np.arange(24, dtype=dtype).reshape(2, 12)
    found, same = (
        EmbeddingTransformer(torch.nn.Linear(12, 2)).fit_transform(table.astype(kind))
        for kind in (dtype, np.uint8)
    )
    assert_array_equal(found, table)
    assert_array_equal(same, table)


def test_bytes_with_the_channels_last_are_refused(pixels):
    with pytest.raises(
        ValueError, match=r"\(8, 8, 3\) are \(height, width, channels\).*transpose\(0, 3, 1, 2\)"
    ):
        EmbeddingTransformer(SmallNet()).fit(pixels)


def test_a_load_callable_is_applied_to_each_item(images):
    found = EmbeddingTransformer(SmallNet(), load=shifted).fit_transform(images)
    assert_array_equal(found, EmbeddingTransformer(SmallNet()).fit_transform(images + 1))


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_worker_processes_change_nothing(paths, images, n_jobs):
    found = EmbeddingTransformer(SmallNet(), n_jobs=n_jobs, batch_size=3).fit_transform(paths)
    assert_array_equal(found, EmbeddingTransformer(SmallNet(), batch_size=3).fit_transform(images))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BREAKAGES = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "not an image": lambda path: path.write_text("<html>404</html>"),
    "missing": Path.unlink,
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("breaks", BREAKAGES.values(), ids=BREAKAGES)
@pytest.mark.parametrize("load", [None, ImageLoader(), ImageNetTransform(8, 8)])
def test_unreadable_files_of_every_kind_are_refused_by_name(paths, breaks, load):
    breaks(Path(paths[4]))
    match = r"1 of 7 images cannot be .*: '.*4\.png'\. Repair.* '.*4\.png' cannot be read: \w+: ."
    with pytest.raises(UnreadableImagesError, match=match):
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


def item_5_fails(item):
    """Load nothing for the item 5; a load callable that workers can import."""
    if item == 5:
        raise KeyError("no such item")
    return torch.full((3, 8, 8), float(item))


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_an_error_of_a_load_callable_names_the_image(n_jobs):
    transformer = EmbeddingTransformer(SmallNet(), load=item_5_fails, batch_size=4, n_jobs=n_jobs)
    transformer.fit(np.arange(4))
    with pytest.raises(ValueError, match=r"Could not load image 6 \(5\): KeyError: 'no such item'"):
        transformer.transform(np.array([0, 1, 2, 3, 4, 6, 5]))


RETURNED = {
    "None": (lambda item: None, "returned None"),
    "a text": (lambda item: "image", "returned 'image'"),
    "a list": (lambda item: [[1.0]], "returned list"),
    "a dict": (lambda item: {"x": 1}, r"returned dict with the keys \['x'\]"),
    "a tuple": (lambda item: (1, 2), "returned tuple"),
}


@pytest.mark.parametrize("load, match", RETURNED.values(), ids=RETURNED)
def test_the_error_says_what_load_returned_and_what_it_must_return(load, match):
    match = rf"image 0 \(7\): TypeError: `load` {match}\. `load` must turn an item of X into an image"
    with pytest.raises(ValueError, match=match) as caught:
        EmbeddingTransformer(SmallNet(), load=load).fit(np.array([7]))
    assert "Repair" not in str(caught.value)


def test_a_load_of_a_known_library_gets_an_opened_image(paths, images):
    transforms = pytest.importorskip("torchvision.transforms")

    class Own(transforms.ToTensor):
        """A transform of a user."""

    expected = EmbeddingTransformer(SmallNet()).fit_transform(images)
    for load in (transforms.ToTensor(), transforms.Compose([Own()]), Own()):
        assert_array_equal(EmbeddingTransformer(SmallNet(), load=load).fit_transform(paths), expected)
    with pytest.raises(ValueError, match=r"image 0 \('.*0\.png'\).*pass load=ImageLoader\(load\)"):
        EmbeddingTransformer(SmallNet(), load=lambda image: halve(image)).fit(paths)


def test_a_processor_that_returns_a_batch_of_one_image_can_be_the_transform(paths, images):
    def processor(image):
        return {"pixel_values": [ImageLoader()(image).numpy()]}

    found = EmbeddingTransformer(SmallNet(), load=ImageLoader(processor)).fit_transform(paths)
    assert_array_equal(found, EmbeddingTransformer(SmallNet()).fit_transform(images))


def test_a_file_that_vanishes_after_the_check_is_named(paths):
    loader = image_batches(paths, None, [[0], [1]])
    next(loader)
    Path(paths[1]).unlink()
    with pytest.raises(
        ValueError, match=r"image 1: '.*1\.png' cannot be read: FileNotFoundError: .* Repair it"
    ):
        next(loader)


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
