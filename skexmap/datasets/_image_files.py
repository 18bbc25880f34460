"""Loaders of published image data sets, and of one's own, from their layout on disk."""

import os
import re
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skexmap.datasets._files import (
    SPLIT_ALIASES,
    SPLIT_CODES,
    check_images,
    check_no_repeats,
    check_sizes_agree,
    decode,
    first_offenders,
    path_array,
    read_csv,
    read_lines,
    refuse_lines,
    require_files,
    require_folders,
    unreadable_images,
)
from skexmap.datasets._splits import add_frame, make_split
from skexmap.datasets._transforms import (
    MASK_THRESHOLD,
    ImageNetTransform,
    is_its_own_mask,
    mask_path,
    read_mask,
)

SPLITS = ("train", "validation", "test")
BINARY = {"0": 0, "1": 1}
# Numbers as programs write them. Ids such as 007, 1_2 or 1e5 are text.
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+([eE][+-]?[0-9]+)?)?")


def _in_splits(paths, target, attributes, split, *, splits=SPLITS, where, as_frame, extra=(), **names):
    """Return a Bunch with one Bunch per split; refuse a split without images, or of one class that is to be learned."""
    split = np.asarray(split)
    empty = [name for name in splits if not np.any(split == name)]
    if empty:
        raise ValueError(f"{where} names no image of the split {' and '.join(empty)}.")
    # A model can be scored on images of one class, but neither trained nor tuned.
    held = {name: np.unique(target[split == name]) for name in splits if name != "test"}
    single = [f"{name} ({names['target_names'][c[0]]!r})" for name, c in held.items() if len(c) == 1]
    if single:
        raise ValueError(
            f"{len(single)} of {len(splits)} splits of {where} have images of one class only: "
            f"{first_offenders(single)}. Take images of another class into each, too."
        )
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


def load_waterbirds(root, foreground_only=False, *, verify="quick", as_frame=False):
    r"""Load Waterbirds: landbirds and waterbirds before land and water (Sagawa et al., 2020 [1]_).

    Parameters
    ----------
    root : path-like
        Folder with ``metadata.csv`` (columns ``img_filename``, ``y``, ``split`` and ``place`` or ``spurious``) and
        the images that it names.
    foreground_only : bool, default=False
        Black out the background of the *test* images, by the CUB mask beside each (same name, ``.png``; pixels of at
        most 200 of 255 are background).
    verify : {"quick", "full", "exists"}, default="quick"
        How every image is checked before anything else happens: by its first and last bytes; by decoding it; or only
        whether it is there.
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
            From a path to the array that the published models take (resize 256, crop 224, ImageNet statistics). Pass
            it as `load`: ``HeatmapTransformer(net, load=dataset.test.transform)``.
        ``frame`` : pandas.DataFrame
            With `as_frame`: path, target, attribute, group_label, group_name.

    Raises
    ------
    FileNotFoundError
        If ``metadata.csv``, or images or masks that it names, are absent: their number and the first ones.
    ValueError
        If a column is missing, a value is unknown, a split is empty, the train or validation split has one class
        only, an image is named twice or cannot be read, a mask differs in size from its image, no mask has a pixel of
        foreground, or an image to be masked is a PNG file.

    Notes
    -----
    The published set has 11,788 images. Sizes of the groups landbird on land, landbird on water, waterbird on land,
    waterbird on water: 3498, 184, 56, 1057 (train), 467, 466, 133, 133 (validation), 2255, 2255, 642, 642 (test).

    References
    ----------
    .. [1] S. Sagawa, P. W. Koh, T. Hashimoto, P. Liang, "Distributionally Robust Neural Networks for Group Shifts",
       ICLR 2020. arXiv:1911.08731

    Examples
    --------
    A tree in the published layout, of one image a group and split:

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
    names, y, place, split = _read_metadata(metadata)
    paths = path_array(root / name for name in names)
    check_no_repeats(names, paths, metadata)
    check_images(paths, metadata, verify)
    dataset = _in_splits(
        paths,
        y,
        place,
        split,
        where=metadata,
        as_frame=as_frame,
        target_names=("landbird", "waterbird"),
        attribute_names=("land", "water"),
    )
    if foreground_only:
        _check_masks(dataset.test.data, metadata, verify)
        dataset.test.transform = ImageNetTransform(foreground_only=True)
    return dataset


def _check_masks(paths, where, verify):
    """Raise if masks beside images are absent or cannot be read, differ in size, or all leave nothing of the image."""
    own = [path for path in paths if is_its_own_mask(path)]
    if own:
        raise ValueError(
            f"{len(own)} of {len(paths)} images named in {where} are PNG files, and so would be their own masks: "
            f"{first_offenders(own)}. Save these images as JPEG."
        )
    masks = path_array(map(mask_path, paths))
    check_images(masks, f"{where} (as masks)", verify)
    if verify == "exists":
        return
    check_sizes_agree(paths, masks, where)
    # A mask may be blank where the annotators disagreed, and `quick` leaves damage inside a file for later; but one
    # mask with a foreground, mostly the first, shows that the masks have the right range.
    seen = (read_mask(mask).any() for mask in masks if not unreadable_images([mask], "full"))
    any_foreground = next(seen, None)
    if any_foreground is None:
        # Not one can be read: that is the error to raise.
        check_images(masks, f"{where} (as masks)", "full")
    if not any_foreground and not any(seen):
        raise ValueError(
            f"None of the {len(masks)} masks of images named in {where} has a pixel above {MASK_THRESHOLD} of 255: all "
            f"images would be black: {first_offenders(masks)}. Multiply masks of 0 and 1 by 255."
        )


def _read_metadata(path):
    """Return names, classes, attributes and splits of a ``metadata.csv`` as published."""
    table, numbers = read_csv(path, _metadata_columns)
    attribute = list(table)[-1]
    return (
        table["img_filename"],
        np.array(decode(table["y"], BINARY, "y", path, numbers)),
        np.array(decode(table[attribute], BINARY, attribute, path, numbers)),
        decode(table["split"], SPLIT_CODES, "split", path, numbers),
    )


def _metadata_columns(present):
    # The generator of Waterbirds writes `place`; the re-published CelebA and others write `spurious`.
    attribute = "spurious" if "spurious" in present and "place" not in present else "place"
    return ["img_filename", "y", "split", attribute]


def load_celeba(root, *, verify="quick", as_frame=False):
    r"""Load CelebA as a shortcut data set: blond hair or not, of women and men (Liu et al., 2015 [1]_).

    Parameters
    ----------
    root : path-like
        Folder with either ``metadata.csv`` (columns ``img_filename``, ``y``, ``split`` and ``place`` or
        ``spurious``), or the original annotations ``list_attr_celeba`` (columns ``Blond_Hair`` and ``Male``) and
        ``list_eval_partition``, each as ``.csv`` or ``.txt``. The images are in `root` itself, in
        ``img_align_celeba`` or in ``img_align_celeba/img_align_celeba``, wherever most of the first 100 are.
    verify : {"quick", "full", "exists"}, default="quick"
        How every image is checked before anything else happens: by its first and last bytes; by decoding it; or only
        whether it is there.
    as_frame : bool, default=False
        Whether each split also has `frame`, a pandas DataFrame.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits ``train``, ``validation`` and ``test``, as `load_waterbirds` describes them. The class is 1 for blond
        hair, the attribute is 1 for men.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_waterbirds` does; and if a table is cut short: it has fewer lines than its first one says, or lacks
        images of the other.

    Notes
    -----
    The published set has 202,599 images. Sizes of the groups not blond women, not blond men, blond women, blond men:
    71629, 66874, 22880, 1387 (train), 8535, 8276, 2874, 182 (validation), 9767, 7535, 2480, 180 (test).

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
    if where.exists():
        names, y, male, split = _read_metadata(where)
    else:
        where, partition = _csv_or_txt(root, "list_attr_celeba"), _csv_or_txt(root, "list_eval_partition")
        require_files(where, partition, advice=CELEBA_FILES)
        names, y, male, split = _read_celeba_annotations(where, partition)
    folder = _celeba_folder(root, names[:N_LOOKED_FOR])
    paths = path_array(folder / name for name in names)
    check_no_repeats(names, paths, where)
    check_images(paths, where, verify)
    return _in_splits(
        paths,
        y,
        male,
        split,
        where=where,
        as_frame=as_frame,
        target_names=("not blond", "blond"),
        attribute_names=("female", "male"),
    )


CELEBA_FILES = (
    "Give as `root` the folder that has metadata.csv, or list_attr_celeba and list_eval_partition, each as .csv or "
    ".txt."
)


def _csv_or_txt(root, name):
    text = root / f"{name}.txt"
    return text if text.exists() else root / f"{name}.csv"


# How many images are looked for in each folder that may hold those of CelebA.
N_LOOKED_FOR = 100


def _celeba_folder(root, names):
    """Return the folder that holds most of these images; the usual one where none holds more."""
    usual = root / "img_align_celeba"
    return max(
        (usual, root, usual / "img_align_celeba"),
        key=lambda folder: sum((folder / name).is_file() for name in names),
    )


def _read_celeba_annotations(attributes, partition):
    table, numbers = _read_celeba_table(attributes, ["Blond_Hair", "Male"])
    splits, lines = _read_celeba_table(partition, ["partition"])
    check_no_repeats(splits["name"], splits["name"], partition)
    decoded = decode(splits["partition"], SPLIT_CODES, "partition", partition, lines)
    split_of = dict(zip(splits["name"], decoded, strict=True))
    absent = [name for name in table["name"] if name not in split_of]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(table['name'])} images of {attributes} have no split in {partition}: "
            f"{first_offenders(absent)}."
        )
    known = set(table["name"])
    absent = [name for name in splits["name"] if name not in known]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(splits['name'])} images of {partition} have no attributes in {attributes}: "
            f"{first_offenders(absent)}. If that file was cut short, get the whole one; otherwise take these images "
            "out of the partition."
        )
    # Published as -1 and 1; some re-publications write 0 and 1.
    signs = {"-1": 0, **BINARY}
    return (
        table["name"],
        np.array(decode(table["Blond_Hair"], signs, "Blond_Hair", attributes, numbers)),
        np.array(decode(table["Male"], signs, "Male", attributes, numbers)),
        [split_of[name] for name in table["name"]],
    )


def _read_celeba_table(path, columns):
    """Read a CelebA annotation file: CSV with ``image_id``, or the original text in columns of blanks."""
    if path.suffix == ".csv":
        table, numbers = read_csv(path, ["image_id", *columns])
        return {"name": table.pop("image_id"), **table}, numbers
    lines = read_lines(path)
    numbers, rows = [number for number, _ in lines], [line.split() for _, line in lines]
    header, number = ["partition"], None
    if columns != header:
        # The first line of list_attr_celeba.txt is the number of images.
        number, header, *rows = rows if len(rows) > 1 else ([], [])
        numbers = numbers[2:]
    missing = [column for column in columns if column not in header]
    if missing:
        there = f"It has: {', '.join(header)} (in its second line)." if header else "It has no second line."
        raise ValueError(f"{path} has no column {first_offenders(missing)}. {there}")
    if number is not None and number != [str(len(rows))]:
        raise ValueError(
            f"{path} says in its first line that it has {' '.join(number)!r} images, and has {len(rows)}. If it was "
            "cut short, get the whole file; otherwise put the number of images there."
        )
    n_values = len(header) + 1
    refuse_lines([len(row) != n_values for row in rows], f"do not have {n_values} values", path, numbers)
    if not rows:
        raise ValueError(f"{path} names no images.")
    values = {column: [row[1 + header.index(column)] for row in rows] for column in columns}
    return {"name": [row[0] for row in rows], **values}, numbers


URBAN_COUNTRY = ("urban", "country")
# Where each split may be. The published generator puts the validation images, made without correlation, beside the
# test images; a validation set with the correlation of the training set exists only where somebody made it on purpose.
URBANCARS_SPLITS = {
    "train": [Path("bg-0.95_co_occur_obj-0.95", "train")],
    "validation": [Path("bg-0.95_co_occur_obj-0.95", "val"), Path("bg-0.5_co_occur_obj-0.5", "val")],
    "test": [Path("bg-0.5_co_occur_obj-0.5", "test")],
}
SHORTCUTS = ("both", "background", "co_occurring_object")


def load_urbancars(root, shortcut="both", *, verify="quick", as_frame=False):
    """Load UrbanCars: urban and country cars with two shortcuts, background and co-occurring object (Li et al. [1]_).

    Parameters
    ----------
    root : path-like
        Folder with ``bg-0.95_co_occur_obj-0.95/train``, ``bg-0.5_co_occur_obj-0.5/val`` and
        ``bg-0.5_co_occur_obj-0.5/test``; in each, eight folders
        ``obj-{urban,country}_bg-{urban,country}_co_occur_obj-{urban,country}`` of images. The masks beside the
        images (``000_mask.png``, ``000_co_occur_obj_mask.png``) are passed over. Where there is a
        ``bg-0.95_co_occur_obj-0.95/val``, which has the correlation of the training set, that is the validation
        split.
    shortcut : {"both", "background", "co_occurring_object"}, default="both"
        What the attribute is: the pair (four values), or one of the two.
    verify : {"quick", "full", "exists"}, default="quick"
        How every image is checked before anything else happens: by its first and last bytes; by decoding it; or only
        whether it is there.
    as_frame : bool, default=False
        Whether each split also has `frame`, a pandas DataFrame.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits ``train``, ``validation`` and ``test``, as `load_waterbirds` describes them, and in each also
        ``background`` and ``co_occurring_object``: ndarray of shape (n_samples,), 0 for urban and 1 for country, as
        the class. They are what `skexmap.metrics.shortcut_gaps` takes.

    Raises
    ------
    FileNotFoundError
        If folders are missing, are files, or hold no images.
    ValueError
        If a folder has another name than those eight, or an image cannot be read.

    Notes
    -----
    In the published training set each shortcut agrees with the class for 95% of 4,000 cars a class: 3610 cars with
    both, 190 with only the background, 190 with only the object, 10 with neither. In the validation and the test set
    both are independent of the class: 125 cars in each of the eight groups.

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
    # The last place is the published one, which an error should name.
    places = {
        name: next((root / place for place in candidates if (root / place).is_dir()), root / candidates[-1])
        for name, candidates in URBANCARS_SPLITS.items()
    }
    require_folders(*places.values())
    paths, codes, split = [], [], []
    for name, place in places.items():
        found, kinds = _urbancars_images(place)
        paths += found
        codes += kinds
        split += [name] * len(found)
    paths = path_array(paths)
    check_images(paths, root, verify)
    car, background, thing = np.array(codes).T
    attributes, attribute_names = {
        "both": (2 * background + thing, [f"{bg} + {obj}" for bg in URBAN_COUNTRY for obj in URBAN_COUNTRY]),
        "background": (background, URBAN_COUNTRY),
        "co_occurring_object": (thing, URBAN_COUNTRY),
    }[shortcut]
    return _in_splits(
        paths,
        car,
        attributes,
        split,
        where=root,
        as_frame=as_frame,
        extra={"background": background, "co_occurring_object": thing},
        target_names=URBAN_COUNTRY,
        attribute_names=attribute_names,
    )


def _urbancars_images(folder):
    """Return the images of one split, and (car, background, object) of each."""
    codes = {
        f"obj-{car}_bg-{bg}_co_occur_obj-{thing}": (i, j, k)
        for i, car in enumerate(URBAN_COUNTRY)
        for j, bg in enumerate(URBAN_COUNTRY)
        for k, thing in enumerate(URBAN_COUNTRY)
    }
    present = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    unknown = [name for name in present if name not in codes]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(present)} folders of {folder} have an unknown name: {first_offenders(unknown)}. "
            "Expected are obj-{urban,country}_bg-{urban,country}_co_occur_obj-{urban,country}."
        )
    require_folders(
        *(folder / name for name in codes),
        advice="Each split has eight folders, named by class and shortcuts.",
    )
    images = {name: sorted(filter(_is_image, (folder / name).iterdir())) for name in codes}
    empty = [name for name, found in images.items() if not found]
    if empty:
        raise FileNotFoundError(
            f"{len(empty)} of 8 folders of {folder} hold no images: {first_offenders(empty)}. Images end in "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    paths = [path for found in images.values() for path in found]
    return paths, [codes[name] for name, found in images.items() for _ in found]


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def _is_image(path):
    """Return whether a file is an image and no mask of one."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.stem.endswith("_mask")


def load_image_folder(
    table,
    root=None,
    *,
    path_column="path",
    target_column="target",
    attribute_column=None,
    split_column=None,
    verify="quick",
    as_frame=False,
):
    r"""Load one's own images, listed in a CSV file.

    Parameters
    ----------
    table : path-like
        CSV file with a line per image.
    root : path-like or None, default=None
        Folder that the paths are relative to; the folder of `table` for None. Absolute paths stay as they are.
    path_column, target_column : str, default="path" and "target"
        Columns of the images' paths and classes (any text or numbers).
    attribute_column : str or None, default=None
        Column of the spurious attribute, where somebody recorded it.
    split_column : str or None, default=None
        Column that says which split each image is in: train, validation (or val, valid) or test, or 0, 1, 2. Without
        one all images are in the split ``all``.
    verify : {"quick", "full", "exists"}, default="quick"
        How every image is checked before anything else happens: by its first and last bytes; by decoding it; or only
        whether it is there.
    as_frame : bool, default=False
        Whether each split also has `frame`, a pandas DataFrame.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        The splits that occur, as `load_waterbirds` describes them. Classes and attributes are numbered in sorted order
        of their names (by value where all are finite numbers), over all splits alike. Without `attribute_column`,
        `attributes`, `attribute_names`, `group_labels` and `group_names` are None.

    Raises
    ------
    FileNotFoundError
        If `table`, or images that it names, are absent: their number and the first ones.
    ValueError
        If a column is missing or named for two purposes, a value is empty or ``nan``, a number is written in two ways
        (``1`` and ``1.0``), a split is unknown, there is one class only (in the table, or in a split other than
        ``test``), an image is named twice, in whichever spelling of its path, or cannot be read.

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
    given = (path_column, target_column, attribute_column, split_column)
    wanted = [column for column in given if column is not None]
    for column in wanted:
        if wanted.count(column) > 1:
            raise ValueError(
                f"The column {column!r} is named {wanted.count(column)} times among `path_column`, `target_column`, "
                "`attribute_column` and `split_column`. Name a column of its own for each."
            )
    require_files(table, advice="Give as `table` the CSV file that lists your images.")
    values, numbers = read_csv(table, wanted)
    folder = table.parent if root is None else Path(root)
    # Joining leaves an absolute path as it is.
    paths = path_array(os.path.join(folder, name) for name in values[path_column])
    check_no_repeats(values[path_column], paths, table)
    target_names, target = _number_in_order(values[target_column], target_column, table, numbers)
    if len(target_names) < 2:
        raise ValueError(f"{table} has one class only ({target_names[0]!r}) in the column {target_column!r}.")
    attribute_names, attributes = None, None
    if attribute_column is not None:
        attribute_names, attributes = _number_in_order(
            values[attribute_column], attribute_column, table, numbers
        )
    split, splits = ["all"] * len(paths), ("all",)
    if split_column is not None:
        known = {**{name: name for name in SPLITS}, **SPLIT_ALIASES}
        split = decode(values[split_column], known, split_column, table, numbers)
        splits = [name for name in SPLITS if name in set(split)]
    check_images(paths, table, verify)
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


def _number_in_order(texts, column, table, numbers):
    """Return the distinct texts of a column in order, numbers by their value, and the position of each."""
    # NumPy and pandas write a missing value so.
    refuse_lines([text.lower() == "nan" for text in texts], f"have no {column} ('nan')", table, numbers)
    names = sorted(set(texts))
    values = [Decimal(name) if NUMBER.fullmatch(name) else None for name in names]
    # Where some are no numbers, the order of text stays.
    if None not in values:
        in_order = sorted(zip(values, names, strict=True))
        for (value, one), (next_value, other) in pairwise(in_order):
            if value == next_value:
                raise ValueError(
                    f"{table} writes a number of the column {column!r} in two ways, {one!r} and {other!r}: they would "
                    "be two names for one thing. Write it in one."
                )
        names = [name for _, name in in_order]
    codes = {name: i for i, name in enumerate(names)}
    return names, np.array([codes[text] for text in texts])
