"""Loaders of published image data sets, and of image folders listed in a CSV file."""

from itertools import product
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skexmap.datasets._splits import add_frame, make_split
from skexmap.datasets._tables import (
    SPLIT_CODES,
    decode,
    first_offenders,
    image_paths,
    read_csv,
    refuse_repeats,
    require_files,
    select_columns,
)
from skexmap.datasets._transforms import MASK_THRESHOLD, ImageNetTransform, mask_path, read_mask

SPLITS = ("train", "validation", "test")
BINARY = {"0": 0, "1": 1}
SPLIT_NAMES = {name: name for name in SPLITS} | {"val": "validation", "valid": "validation"} | SPLIT_CODES


def _in_splits(paths, target, attributes, split, *, splits=SPLITS, where, as_frame, extra=(), **names):
    """Return a Bunch with one Bunch per split; raise if a split has no images."""
    empty = [name for name in splits if not np.any(split == name)]
    if empty:
        raise ValueError(f"{where} names no image of the split {' and '.join(empty)}.")
    dataset = Bunch()
    for name in splits:
        rows = np.flatnonzero(split == name)
        columns = {key: values[rows] for key, values in dict(extra).items()}
        dataset[name] = make_split(
            paths[rows],
            target[rows],
            None if attributes is None else attributes[rows],
            transform=ImageNetTransform(),
            **names,
            **columns,
        )
        if as_frame:
            add_frame(dataset[name], **columns)
    return dataset


def load_waterbirds(root, foreground_only=False, *, as_frame=False):
    r"""Load Waterbirds: landbirds and waterbirds in front of land and water (Sagawa et al., 2020 [1]_).

    Parameters
    ----------
    root : path-like
        Folder with ``metadata.csv`` (columns ``img_filename``, ``y``, ``split``, and ``place`` or ``spurious``) and
        the images that it names.
    foreground_only : bool, default=False
        Whether to black out the background of the *test* images, by the CUB mask beside each image (same name,
        ``.png``; pixels with values of at most 200 of 255 are background).
    as_frame : bool, default=False
        Whether each split also has `frame`, a pandas DataFrame.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits ``train``, ``validation`` and ``test``. Each is a Bunch with

        ``data`` : ndarray of str of shape (n_samples,)
            Paths of the images.
        ``target``, ``attributes``, ``group_labels`` : ndarray of shape (n_samples,), int64
            Class, spurious attribute, and group ``n_attributes * target + attribute``.
        ``target_names``, ``attribute_names``, ``group_names`` : list of str
        ``transform`` : ImageNetTransform
            Turns a path into the array that the published models expect (resize 256, crop 224, ImageNet statistics).
            Pass it as `load`: ``HeatmapTransformer(net, load=dataset.test.transform)``.
        ``frame`` : pandas.DataFrame
            Only with `as_frame`; columns path, target, attribute, group_label and group_name.

    Raises
    ------
    FileNotFoundError
        If ``metadata.csv``, or images or masks that it names, do not exist.
    ValueError
        If a column is missing, a value is empty or unknown, a split is empty, an image is named twice, no mask has any
        foreground pixels, or an image to be masked is a PNG file.

    Notes
    -----
    The published set has 11,788 images. The sizes of the groups landbird on land, landbird on water, waterbird on land
    and waterbird on water are 3498, 184, 56, 1057 (train), 467, 466, 133, 133 (validation) and 2255, 2255, 642, 642
    (test).

    References
    ----------
    .. [1] S. Sagawa, P. W. Koh, T. Hashimoto, P. Liang, "Distributionally Robust Neural Networks for Group Shifts",
       ICLR 2020. arXiv:1911.08731

    Examples
    --------
    A folder in the published layout, with one image per group and split:

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from skexmap.datasets import load_waterbirds
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> lines = ["img_filename,y,split,place"]
    >>> for i in range(12):
    ...     Image.new("RGB", (40, 30)).save(root / f"{i}.jpg")
    ...     lines.append(f"{i}.jpg,{i // 2 % 2},{i // 4},{i % 2}")
    >>> _ = (root / "metadata.csv").write_text("\n".join(lines))
    >>> birds = load_waterbirds(root)
    >>> list(birds)
    ['train', 'validation', 'test']
    >>> birds.train.group_names
    ['landbird, land', 'landbird, water', 'waterbird, land', 'waterbird, water']
    >>> birds.train.group_labels
    array([0, 1, 2, 3])
    """
    root = Path(root)
    metadata = root / "metadata.csv"
    require_files(metadata)
    names, y, place, split = _read_metadata(metadata)
    dataset = _in_splits(
        image_paths(root, names, metadata),
        y,
        place,
        split,
        where=metadata,
        as_frame=as_frame,
        target_names=("landbird", "waterbird"),
        attribute_names=("land", "water"),
    )
    if foreground_only:
        _check_masks(dataset.test.data, metadata)
        dataset.test.transform = ImageNetTransform(foreground_only=True)
    return dataset


def _read_metadata(path):
    """Return names, classes, attributes and splits of a ``metadata.csv`` as published."""
    header, rows = read_csv(path)
    # The generator of Waterbirds writes `place`; the re-published CelebA and others write `spurious`.
    attribute = "spurious" if "spurious" in header and "place" not in header else "place"
    table = select_columns(path, header, rows, ["img_filename", "y", "split", attribute])
    return (
        table["img_filename"],
        decode(table["y"], BINARY, "y", path),
        decode(table[attribute], BINARY, attribute, path),
        decode(table["split"], SPLIT_CODES, "split", path),
    )


def _check_masks(paths, where):
    """Raise if masks beside images do not exist, or if all masks are blank."""
    masks = image_paths("", map(mask_path, paths), f"{where} (as masks)")
    # A single mask may be blank. One mask with a foreground, usually the first, shows that the range is right.
    if not any(read_mask(mask).any() for mask in masks):
        raise ValueError(
            f"None of the {len(masks)} masks of images named in {where} has a pixel above {MASK_THRESHOLD} of 255: all "
            f"images would be black: {first_offenders(masks)}. Multiply masks of 0 and 1 by 255."
        )


def load_celeba(root, *, as_frame=False):
    r"""Load CelebA as a shortcut data set: blond hair or not, for women and men (Liu et al., 2015 [1]_).

    Parameters
    ----------
    root : path-like
        Folder with either ``metadata.csv`` (columns ``img_filename``, ``y``, ``split`` and ``place`` or
        ``spurious``), or the original annotations ``list_attr_celeba`` (columns ``Blond_Hair`` and ``Male``) and
        ``list_eval_partition``, each as ``.csv`` or ``.txt``. The images are in `root` itself, in
        ``img_align_celeba`` or in ``img_align_celeba/img_align_celeba``, depending on where the first one is.
    as_frame : bool, default=False
        Whether each split also has `frame`, a pandas DataFrame.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits ``train``, ``validation`` and ``test``, as in `load_waterbirds`. The class is 1 for blond hair, and
        the attribute is 1 for men.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `load_waterbirds`, and if images are in only one of the two tables.

    Notes
    -----
    The published set has 202,599 images. The sizes of the groups not blond women, not blond men, blond women and blond
    men are 71629, 66874, 22880, 1387 (train), 8535, 8276, 2874, 182 (validation) and 9767, 7535, 2480, 180 (test).

    References
    ----------
    .. [1] Z. Liu, P. Luo, X. Wang, X. Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015. arXiv:1411.7766

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from skexmap.datasets import load_celeba
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> attributes = ["image_id,Blond_Hair,Male"]
    >>> partition = ["image_id,partition"]
    >>> for i in range(12):
    ...     Image.new("RGB", (30, 40)).save(root / f"{i}.jpg")
    ...     attributes.append(f"{i}.jpg,{2 * (i // 2 % 2) - 1},{2 * (i % 2) - 1}")
    ...     partition.append(f"{i}.jpg,{i // 4}")
    >>> _ = (root / "list_attr_celeba.csv").write_text("\n".join(attributes))
    >>> _ = (root / "list_eval_partition.csv").write_text("\n".join(partition))
    >>> faces = load_celeba(root)
    >>> faces.test.group_labels
    array([0, 1, 2, 3])
    >>> faces.test.group_names
    ['not blond, female', 'not blond, male', 'blond, female', 'blond, male']
    """
    root = Path(root)
    where = root / "metadata.csv"
    names, y, male, split = _read_metadata(where) if where.exists() else _read_celeba_annotations(root)
    usual = root / "img_align_celeba"
    folders = (usual, root, usual / "img_align_celeba")
    folder = next((folder for folder in folders if (folder / names[0]).is_file()), usual)
    return _in_splits(
        image_paths(folder, names, root),
        y,
        male,
        split,
        where=root,
        as_frame=as_frame,
        target_names=("not blond", "blond"),
        attribute_names=("female", "male"),
    )


def _read_celeba_annotations(root):
    """Return names, classes, attributes and splits of the original annotations."""
    attributes, partition = (_csv_or_txt(root, name) for name in ("list_attr_celeba", "list_eval_partition"))
    require_files(
        attributes,
        partition,
        advice="Give as `root` the folder that has metadata.csv, or these two files, each as .csv or .txt.",
    )
    table = _read_celeba_table(attributes, ["image_id", "Blond_Hair", "Male"])
    splits = _read_celeba_table(partition, ["image_id", "partition"])
    refuse_repeats(splits["image_id"], partition)
    code_of = dict(zip(splits["image_id"], splits["partition"], strict=True))
    alone = sorted(set(table["image_id"]) ^ set(code_of))
    if alone:
        raise ValueError(
            f"{len(alone)} images are named in only one of {attributes} and {partition}: {first_offenders(alone)}. If "
            "a table was cut short, get the whole one."
        )
    # The published values are -1 and 1; some re-publications use 0 and 1.
    signs = {"-1": 0, **BINARY}
    return (
        table["image_id"],
        decode(table["Blond_Hair"], signs, "Blond_Hair", attributes),
        decode(table["Male"], signs, "Male", attributes),
        decode([code_of[name] for name in table["image_id"]], SPLIT_CODES, "partition", partition),
    )


def _csv_or_txt(root, name):
    text = root / f"{name}.txt"
    return text if text.exists() else root / f"{name}.csv"


def _read_celeba_table(path, columns):
    """Return columns of a CelebA annotation file: CSV, or the original text with spaces between values."""
    if path.suffix == ".csv":
        return select_columns(path, *read_csv(path), columns)
    header, rows = columns, [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if "partition" not in columns:
        # The number of images comes first, then the names of all columns except that of the image.
        header, rows = ["image_id", *(rows[1] if len(rows) > 1 else [])], rows[2:]
    return select_columns(path, header, rows, columns)


URBAN_COUNTRY = ("urban", "country")
# Possible folders of each split. The published generator makes the validation images without correlation and puts them
# beside the test images. Users must generate a validation set with the correlation of the training set themselves.
URBANCARS_SPLITS = {
    "train": [Path("bg-0.95_co_occur_obj-0.95", "train")],
    "validation": [Path("bg-0.95_co_occur_obj-0.95", "val"), Path("bg-0.5_co_occur_obj-0.5", "val")],
    "test": [Path("bg-0.5_co_occur_obj-0.5", "test")],
}
SHORTCUTS = ("both", "background", "co_occurring_object")


def load_urbancars(root, shortcut="both", *, as_frame=False):
    """Load UrbanCars: urban and country cars with two shortcuts, background and co-occurring object (Li et al. [1]_).

    Parameters
    ----------
    root : path-like
        Folder with ``bg-0.95_co_occur_obj-0.95/train``, ``bg-0.5_co_occur_obj-0.5/val`` and
        ``bg-0.5_co_occur_obj-0.5/test``. Each of them holds eight folders
        ``obj-{urban,country}_bg-{urban,country}_co_occur_obj-{urban,country}`` of JPEG files; the masks beside them
        are PNG files. If ``bg-0.95_co_occur_obj-0.95/val`` exists, which has the correlation of the training set, it
        is the validation split.
    shortcut : {"both", "background", "co_occurring_object"}, default="both"
        The attribute: the pair of shortcuts (four values), or one of the two.
    as_frame : bool, default=False
        Whether each split also has `frame`, a pandas DataFrame.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits ``train``, ``validation`` and ``test``, as in `load_waterbirds`. Each also has ``background`` and
        ``co_occurring_object``, ndarrays of shape (n_samples,) that are 0 for urban and 1 for country, like the class.
        Pass them to `skexmap.metrics.shortcut_gaps`.

    Raises
    ------
    FileNotFoundError
        If folders are missing or contain no images.
    ValueError
        If `shortcut` is unknown.

    Notes
    -----
    In the published training set each shortcut agrees with the class for 95% of the 4,000 cars per class: both agree
    for 3610 cars, only the background for 190, only the object for 190, and neither for 10. In the validation and test
    sets both are independent of the class, with 125 cars in each of the eight groups.

    References
    ----------
    .. [1] Z. Li et al., "A Whac-A-Mole Dilemma: Shortcuts Come in Multiples Where Mitigating One Amplifies Others",
       CVPR 2023. arXiv:2212.04825

    Examples
    --------
    >>> import itertools, pathlib, tempfile
    >>> from PIL import Image
    >>> from skexmap.datasets import load_urbancars
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> places = ["bg-0.95_co_occur_obj-0.95/train", "bg-0.5_co_occur_obj-0.5/val", "bg-0.5_co_occur_obj-0.5/test"]
    >>> for place, car, bg, thing in itertools.product(places, *[["urban", "country"]] * 3):
    ...     folder = root / place / f"obj-{car}_bg-{bg}_co_occur_obj-{thing}"
    ...     folder.mkdir(parents=True)
    ...     Image.new("RGB", (32, 32)).save(folder / "000.jpg")
    >>> cars = load_urbancars(root, shortcut="background")
    >>> cars.test.group_names
    ['urban, urban', 'urban, country', 'country, urban', 'country, country']
    >>> cars.test.group_labels
    array([0, 0, 1, 1, 2, 2, 3, 3])
    """
    if shortcut not in SHORTCUTS:
        raise ValueError(f"shortcut must be one of {', '.join(map(repr, SHORTCUTS))}, got {shortcut!r}.")
    root = Path(root)
    # The last folder is the published one, which an error should name.
    places = {
        name: next((root / place for place in candidates if (root / place).is_dir()), root / candidates[-1])
        for name, candidates in URBANCARS_SPLITS.items()
    }
    require_files(*places.values())
    paths, codes, split = [], [], []
    for name, place in places.items():
        for kind in product((0, 1), repeat=3):
            folder = place / "obj-{}_bg-{}_co_occur_obj-{}".format(*(URBAN_COUNTRY[code] for code in kind))
            images = sorted(folder.glob("*.jpg"))
            if not images:
                raise FileNotFoundError(
                    f"{folder} is missing or holds no .jpg files. Each split has eight folders, named by class and "
                    "shortcuts."
                )
            paths += images
            codes += [kind] * len(images)
            split += [name] * len(images)
    car, background, thing = np.array(codes).T
    attributes, attribute_names = {
        "both": (2 * background + thing, [f"{bg} + {obj}" for bg in URBAN_COUNTRY for obj in URBAN_COUNTRY]),
        "background": (background, URBAN_COUNTRY),
        "co_occurring_object": (thing, URBAN_COUNTRY),
    }[shortcut]
    return _in_splits(
        np.array(paths, dtype=str),
        car,
        attributes,
        np.array(split),
        where=root,
        as_frame=as_frame,
        extra={"background": background, "co_occurring_object": thing},
        target_names=URBAN_COUNTRY,
        attribute_names=attribute_names,
    )


def load_image_folder(
    table,
    root=None,
    *,
    path_column="path",
    target_column="target",
    attribute_column=None,
    split_column=None,
    as_frame=False,
):
    r"""Load your own images, listed in a CSV file.

    Parameters
    ----------
    table : path-like
        CSV file with one line per image.
    root : path-like or None, default=None
        Folder that the paths are relative to; if None, the folder of `table`. Absolute paths are kept.
    path_column, target_column : str, default="path" and "target"
        Columns with the path and the class (any text or number) of each image.
    attribute_column : str or None, default=None
        Column with the spurious attribute, if it was recorded.
    split_column : str or None, default=None
        Column with the split of each image: train, validation (or val, valid) or test, or 0, 1, 2. If None, all images
        are in the split ``all``.
    as_frame : bool, default=False
        Whether each split also has `frame`, a pandas DataFrame.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits that occur, as in `load_waterbirds`. Classes and attributes are numbered in sorted order of their
        names (by value if all are numbers), in the same way for all splits. Without `attribute_column`, `attributes`,
        `attribute_names`, `group_labels` and `group_names` are None.

    Raises
    ------
    FileNotFoundError
        If `table`, or images that it names, do not exist.
    ValueError
        If a column is missing, a value is empty or ``nan``, a split is unknown, there is only one class, or an image is
        named twice, even by different spellings of its path.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from skexmap.datasets import load_image_folder
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> lines = ["path,target"]
    >>> for name in ("cat", "dog"):
    ...     Image.new("RGB", (32, 32)).save(root / f"{name}.png")
    ...     lines.append(f"{name}.png,{name}")
    >>> _ = (root / "pets.csv").write_text("\n".join(lines))
    >>> pets = load_image_folder(root / "pets.csv")
    >>> pets["all"].target, pets["all"].target_names
    (array([0, 1]), ['cat', 'dog'])
    >>> pets["all"].group_labels is None
    True
    """
    table = Path(table)
    require_files(table, advice="Give as `table` the CSV file that lists your images.")
    columns = (path_column, target_column, attribute_column, split_column)
    values = select_columns(table, *read_csv(table), [column for column in columns if column is not None])
    paths = image_paths(table.parent if root is None else root, values[path_column], table)
    target_names, target = _number_in_order(values[target_column])
    if len(target_names) < 2:
        raise ValueError(f"{table} has one class only ({target_names[0]!r}) in the column {target_column!r}.")
    attribute_names, attributes = None, None
    if attribute_column is not None:
        attribute_names, attributes = _number_in_order(values[attribute_column])
    split, splits = np.full(len(paths), "all"), ("all",)
    if split_column is not None:
        split = decode(values[split_column], SPLIT_NAMES, split_column, table)
        splits = [name for name in SPLITS if name in split]
    return _in_splits(
        paths,
        target,
        attributes,
        split,
        splits=splits,
        where=table,
        as_frame=as_frame,
        target_names=target_names,
        attribute_names=attribute_names,
    )


def _number_in_order(texts):
    """Return the distinct texts in order (by value if all are numbers), and the position of each text."""
    names = set(texts)
    try:
        names = sorted(names, key=lambda name: (float(name), name))
    except ValueError:
        names = sorted(names)
    codes = {name: code for code, name in enumerate(names)}
    return names, np.array([codes[text] for text in texts])
