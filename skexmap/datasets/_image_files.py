"""Loaders of published image data sets, and of your own images."""

import os
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skexmap.datasets._splits import make_split
from skexmap.datasets._tables import Table, first_offenders, image_paths, refuse_repeats, require_files
from skexmap.datasets._transforms import ImageNetTransform

SPLITS = ("train", "validation", "test")
SPLIT_CODES = {"0": "train", "1": "validation", "2": "test"}
SPLIT_NAMES = {name: name for name in SPLITS} | {"val": "validation", "valid": "validation"} | SPLIT_CODES
BINARY = {"0": 0, "1": 1}
URBAN_COUNTRY = ("urban", "country")
# Possible folders of each split, the published one last. The published generator makes the validation images without
# correlation and puts them beside the test images.
URBANCARS_FOLDERS = {
    "train": [Path("bg-0.95_co_occur_obj-0.95", "train")],
    "validation": [Path("bg-0.95_co_occur_obj-0.95", "val"), Path("bg-0.5_co_occur_obj-0.5", "val")],
    "test": [Path("bg-0.5_co_occur_obj-0.5", "test")],
}


def load_waterbirds(root, foreground_only=False):
    r"""Load Waterbirds: landbirds and waterbirds in front of land and water (Sagawa et al., 2020 [1]_).

    Parameters
    ----------
    root : path-like
        Folder with ``metadata.csv`` (columns ``img_filename``, ``y``, ``split``, and ``place`` or ``spurious``) and
        the images that it names.
    foreground_only : bool, default=False
        Whether the `transform` of the test split blacks out the background, by the CUB mask beside each image.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits ``train``, ``validation`` and ``test``. Each is a Bunch with

        ``data`` : ndarray of str of shape (n_samples,)
            Paths of the images.
        ``target``, ``attributes``, ``group_labels`` : ndarray of shape (n_samples,), int64
            Class, spurious attribute, and group ``n_attributes * target + attribute``.
        ``target_names``, ``attribute_names``, ``group_names`` : list of str
            Names of the classes, attributes and groups.
        ``transform`` : ImageNetTransform
            Turns a path into the array that the published models expect. Pass it as `load`:
            ``HeatmapTransformer(net, load=dataset.test.transform)``.

    Raises
    ------
    FileNotFoundError, ValueError
        If ``metadata.csv``, or images that it names, do not exist; if a column is missing, a value is empty or unknown,
        a split is empty, or an image is named twice.

    References
    ----------
    .. [1] S. Sagawa, P. W. Koh, T. Hashimoto, P. Liang, "Distributionally Robust Neural Networks for Group Shifts",
       ICLR 2020. arXiv:1911.08731

    Examples
    --------
    A folder in the published layout, with one image of each split:

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from skexmap.datasets import load_waterbirds
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for i in range(3):
    ...     Image.new("RGB", (40, 30)).save(root / f"{i}.jpg")
    >>> lines = ["img_filename,y,split,place", "0.jpg,0,0,0", "1.jpg,1,1,1", "2.jpg,1,2,0"]
    >>> _ = (root / "metadata.csv").write_text("\n".join(lines))
    >>> birds = load_waterbirds(root)
    >>> birds.test.group_names[birds.test.group_labels[0]]
    'waterbird, land'
    """
    metadata = Path(root) / "metadata.csv"
    require_files(metadata)
    names, y, place, split = _read_metadata(metadata)
    paths = image_paths(root, names, metadata)
    dataset = _in_splits(paths, y, place, split, metadata, ("landbird", "waterbird"), ("land", "water"))
    dataset.test.transform = ImageNetTransform(foreground_only=foreground_only)
    return dataset


def load_celeba(root):
    r"""Load CelebA as a shortcut data set: blond hair or not, for women and men (Liu et al., 2015 [1]_).

    Parameters
    ----------
    root : path-like
        Folder with either ``metadata.csv`` (columns ``img_filename``, ``y``, ``split`` and ``place`` or
        ``spurious``), or the original annotations ``list_attr_celeba`` (columns ``Blond_Hair`` and ``Male``) and
        ``list_eval_partition``, each as ``.csv`` or ``.txt``. The images are in `root` itself, in
        ``img_align_celeba`` or in ``img_align_celeba/img_align_celeba``.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits ``train``, ``validation`` and ``test``, as in `load_waterbirds`. The class is 1 for blond hair, and
        the attribute is 1 for men.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `load_waterbirds`, and if images are in only one of the two tables.

    References
    ----------
    .. [1] Z. Liu, P. Luo, X. Wang, X. Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015. arXiv:1411.7766

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from skexmap.datasets import load_celeba
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for i in range(3):
    ...     Image.new("RGB", (30, 40)).save(root / f"{i}.jpg")
    >>> attributes = ["image_id,Blond_Hair,Male", "0.jpg,-1,1", "1.jpg,1,-1", "2.jpg,1,1"]
    >>> partition = ["image_id,partition", "0.jpg,0", "1.jpg,1", "2.jpg,2"]
    >>> _ = (root / "list_attr_celeba.csv").write_text("\n".join(attributes))
    >>> _ = (root / "list_eval_partition.csv").write_text("\n".join(partition))
    >>> faces = load_celeba(root)
    >>> faces.test.group_names[faces.test.group_labels[0]]
    'blond, male'
    """
    root = Path(root)
    metadata = root / "metadata.csv"
    names, y, male, split = _read_metadata(metadata) if metadata.exists() else _read_celeba_annotations(root)
    usual = root / "img_align_celeba"
    folders = (usual, root, usual / "img_align_celeba")
    folder = next((folder for folder in folders if (folder / names[0]).is_file()), usual)
    paths = image_paths(folder, names, root)
    return _in_splits(paths, y, male, split, root, ("not blond", "blond"), ("female", "male"))


def load_urbancars(root, shortcut="both"):
    """Load UrbanCars: urban and country cars with two shortcuts, background and co-occurring object (Li et al. [1]_).

    Parameters
    ----------
    root : path-like
        Folder with ``bg-0.95_co_occur_obj-0.95/train``, ``bg-0.5_co_occur_obj-0.5/val`` and
        ``bg-0.5_co_occur_obj-0.5/test``. Each of them holds eight folders
        ``obj-{urban,country}_bg-{urban,country}_co_occur_obj-{urban,country}`` of JPEG files. If
        ``bg-0.95_co_occur_obj-0.95/val`` exists, it is the validation split, with the correlation of the training set.
    shortcut : {"both", "background", "co_occurring_object"}, default="both"
        The attribute: the pair of shortcuts (four values), or one of the two.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits ``train``, ``validation`` and ``test``, as in `load_waterbirds`. Each also has ``background`` and
        ``co_occurring_object``, ndarrays of shape (n_samples,) that are 0 for urban and 1 for country, like the class.
        Pass them to `skexmap.metrics.shortcut_gaps`.

    Raises
    ------
    FileNotFoundError, ValueError
        If folders are missing or contain no images; if `shortcut` is unknown.

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
    >>> cars.test.group_labels
    array([0, 0, 1, 1, 2, 2, 3, 3])
    """
    if shortcut not in ("both", "background", "co_occurring_object"):
        raise ValueError(f"shortcut must be 'both', 'background' or 'co_occurring_object', got {shortcut!r}.")
    root = Path(root)
    places = {
        name: next((root / folder for folder in folders if (root / folder).is_dir()), root / folders[-1])
        for name, folders in URBANCARS_FOLDERS.items()
    }
    require_files(*places.values())
    paths, codes, split = [], [], []
    for (name, place), kind in product(places.items(), product((0, 1), repeat=3)):
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
    shortcuts = {"background": background, "co_occurring_object": thing}
    if shortcut == "both":
        attributes = 2 * background + thing
        attribute_names = [f"{bg} + {obj}" for bg, obj in product(URBAN_COUNTRY, repeat=2)]
    else:
        attributes, attribute_names = shortcuts[shortcut], URBAN_COUNTRY
    paths, split = np.array(paths, dtype=str), np.array(split)
    return _in_splits(paths, car, attributes, split, root, URBAN_COUNTRY, attribute_names, **shortcuts)


def load_image_folder(
    table, root=None, *, path_column="path", target_column="target", attribute_column=None, split_column=None
):
    r"""Load your own images, listed in a table or sorted into folders.

    Parameters
    ----------
    table : path-like or DataFrame
        CSV file, or data frame of pandas or polars, with one line per image. Or a folder with one folder of images for
        each class. The class folders may themselves be in folders named by split (train, val, valid, validation, test);
        the column ``split`` then holds these names.
    root : path-like or None, default=None
        Folder that the paths are relative to, and that must contain them. If None, it is the folder of the CSV file;
        paths in a data frame may then point to any folder.
    path_column, target_column : str, default="path" and "target"
        Columns with the path and the class of each image.
    attribute_column : str or None, default=None
        Column with the spurious attribute, if it was recorded.
    split_column : str or None, default=None
        Column with the split of each image: train, validation (or val, valid) or test, or 0, 1, 2. If None, all images
        are in the split ``all``, unless `table` is a folder of splits.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits that occur, as in `load_waterbirds`. Classes and attributes are numbered in sorted order of their
        names (by value if all are numbers), in the same way for all splits. Without `attribute_column`, `attributes`,
        `attribute_names`, `group_labels` and `group_names` are None.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `load_waterbirds`; different spellings of a path name the same image. If an image is outside `root`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from skexmap.datasets import load_image_folder
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("0.png", "1.png"):
    ...     Image.new("RGB", (32, 32)).save(root / name)
    >>> _ = (root / "pets.csv").write_text("path,target\n0.png,cat\n1.png,dog")
    >>> pets = load_image_folder(root / "pets.csv")
    >>> pets["all"].target, pets["all"].target_names
    (array([0, 1]), ['cat', 'dog'])
    >>> pets["all"].group_labels is None
    True
    """
    if hasattr(table, "columns"):
        columns = Table.from_frame(table)
    elif os.path.isdir(table):
        columns = Table.from_class_folders(table)
        root = table if root is None else root
        split_column = "split" if split_column is None and "split" in columns.columns else split_column
    else:
        require_files(
            table, advice="Give as `table` the CSV file that lists your images, or a folder of them."
        )
        columns = Table.from_csv(table)
        root = Path(table).parent if root is None else root
    paths = image_paths(root, columns[path_column], columns.path)
    target_names, target = _number_in_order(columns[target_column])
    attribute_names, attributes = None, None
    if attribute_column is not None:
        attribute_names, attributes = _number_in_order(columns[attribute_column])
    split, splits = np.full(len(paths), "all"), ["all"]
    if split_column is not None:
        split = columns.decode(split_column, SPLIT_NAMES)
        splits = [name for name in SPLITS if name in split]
    return _in_splits(
        paths, target, attributes, split, columns.path, target_names, attribute_names, splits=splits
    )


def _in_splits(
    paths, target, attributes, split, where, target_names, attribute_names, *, splits=SPLITS, **extra
):
    """Return a Bunch with one Bunch per split; raise if a split has no images."""
    empty = [name for name in splits if not np.any(split == name)]
    if empty:
        raise ValueError(f"{where} names no image of the split {' and '.join(empty)}.")
    dataset = Bunch()
    for name in splits:
        rows = np.flatnonzero(split == name)
        dataset[name] = make_split(
            paths[rows],
            target[rows],
            None if attributes is None else attributes[rows],
            target_names=target_names,
            attribute_names=attribute_names,
            transform=ImageNetTransform(),
            **{key: values[rows] for key, values in extra.items()},
        )
    return dataset


def _read_metadata(path):
    """Return names, classes, attributes and splits of a ``metadata.csv`` as published."""
    table = Table.from_csv(path)
    # The generator of Waterbirds writes `place`; the re-published CelebA and others write `spurious`.
    attribute = "spurious" if "spurious" in table.columns and "place" not in table.columns else "place"
    return (
        table["img_filename"],
        table.decode("y", BINARY),
        table.decode(attribute, BINARY),
        table.decode("split", SPLIT_CODES),
    )


def _read_celeba_annotations(root):
    """Return names, classes, attributes and splits of the original annotations."""
    texts = [root / f"{name}.txt" for name in ("list_attr_celeba", "list_eval_partition")]
    paths = [text if text.exists() else text.with_suffix(".csv") for text in texts]
    require_files(
        *paths,
        advice="Give as `root` the folder that has metadata.csv, or these two files, each as .csv or .txt.",
    )
    attributes, partition = (_read_celeba_table(path) for path in paths)
    refuse_repeats(partition["image_id"], partition.path)
    split_of = dict(zip(partition["image_id"], partition.decode("partition", SPLIT_CODES), strict=True))
    names = attributes["image_id"]
    alone = sorted(set(names) ^ set(split_of))
    if alone:
        raise ValueError(
            f"{len(alone)} images are named in only one of {paths[0]} and {paths[1]}: {first_offenders(alone)}. If a "
            "table was cut short, get the whole one."
        )
    # The published values are -1 and 1; some re-publications use 0 and 1.
    signs = {"-1": 0, **BINARY}
    return (
        names,
        attributes.decode("Blond_Hair", signs),
        attributes.decode("Male", signs),
        np.array([split_of[name] for name in names]),
    )


def _read_celeba_table(path):
    """Return a CelebA annotation file: CSV, or the original text with spaces between values."""
    if path.suffix == ".csv":
        return Table.from_csv(path)
    lines = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if path.stem == "list_eval_partition":
        return Table(path, ["image_id", "partition"], lines)
    # The number of images comes first, then the names of all columns except that of the image.
    return Table(path, ["image_id", *lines[1]] if len(lines) > 1 else [], lines[2:])


def _number_in_order(texts):
    """Return the distinct texts in order (by value if all are numbers), and the position of each text."""
    names = set(texts)
    try:
        names = sorted(names, key=lambda name: (float(name), name))
    except ValueError:
        names = sorted(names)
    codes = {name: code for code, name in enumerate(names)}
    return names, np.array([codes[text] for text in texts])
