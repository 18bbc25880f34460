"""Read tables that name images; errors give the number of problems and the first ones."""

import csv
import os
from pathlib import Path

import numpy as np

N_SHOWN = 5
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SPLIT_FOLDERS = {"train", "val", "valid", "validation", "test"}


class Table:
    """The columns of a table in a file; a line is a list of str."""

    def __init__(self, path, header, lines):
        if not lines:
            raise ValueError(f"{path} is empty: it names no images.")
        ragged = [line[0] for line in lines if len(line) != len(header)]
        if ragged:
            raise ValueError(
                f"{len(ragged)} of {len(lines)} lines of {path} do not have {len(header)} values; they begin with "
                f"{first_offenders(ragged)}."
            )
        self.path = path
        self.columns = dict(zip(header, map(list, zip(*lines, strict=True)), strict=True))

    @classmethod
    def from_csv(cls, path):
        """Read a CSV file; values may be quoted, and quoted values may have several lines."""
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file, skipinitialspace=True, strict=True)
                lines = [[value.strip() for value in line] for line in reader if any(line)]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a CSV file in UTF-8: {error}.") from error
        return cls(path, lines[0] if lines else [], lines[1:])

    @classmethod
    def from_frame(cls, frame):
        """Take the columns of a data frame of pandas or polars."""
        columns = [
            ["" if value is None else str(value) for value in frame[name].to_list()] for name in frame.columns
        ]
        return cls("the data frame", [str(name) for name in frame.columns], list(zip(*columns, strict=True)))

    @classmethod
    def from_class_folders(cls, root):
        """List the images in a tree of folders named by class, which may lie in folders named by split."""
        files = [path for path in sorted(Path(root).rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
        parts = [path.relative_to(root).parts for path in files if path.is_file()]
        parts = [names for names in parts if not any(name.startswith(".") for name in names)]
        has_splits = bool(parts) and {first for first, *_ in parts} <= SPLIT_FOLDERS
        depth = 2 if has_splits else 1
        astray = [os.path.join(*names) for names in parts if len(names) <= depth]
        if astray:
            raise ValueError(
                f"{len(astray)} of {len(parts)} images in {root} are not in the folder of a class: "
                f"{first_offenders(astray)}. Put each image into a folder named by its class."
            )
        header = ["path", "split", "target"] if has_splits else ["path", "target"]
        return cls(root, header, [[os.path.join(*names), *names[:depth]] for names in parts])

    def __getitem__(self, column):
        """Return the values of a column; raise ValueError if it does not exist, or a value is missing."""
        if column not in self.columns:
            raise ValueError(f"{self.path} has no column {column!r}. It has: {', '.join(self.columns)}.")
        values = self.columns[column]
        # NumPy and pandas write "nan" for a missing value.
        empty = [i for i, value in enumerate(values, start=1) if value.lower() in ("", "nan", "<na>")]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(values)} values of {column!r} in {self.path} are empty: numbers "
                f"{first_offenders(empty)}."
            )
        return values

    def decode(self, column, codes):
        """Return the values of a column, translated by a dict; raise ValueError if some are not in it."""
        values = self[column]
        unknown = [value for value in values if value not in codes]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(values)} values of {column!r} in {self.path} are unknown: "
                f"{first_offenders(sorted({repr(value) for value in unknown}))}. Known are {', '.join(codes)}."
            )
        return np.array([codes[value] for value in values])


def first_offenders(offenders):
    """Return the first offenders and the number of others as text."""
    shown = ", ".join(str(offender) for offender in offenders[:N_SHOWN])
    more = len(offenders) - N_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def require_files(*paths, advice="Give as `root` the folder that has them."):
    """Raise FileNotFoundError with all files or folders that do not exist, and with advice."""
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} files or folders are missing: {first_offenders(missing)}. {advice}"
        )


def image_paths(folder, names, where):
    """Return the paths of images as an array; raise if one is absent, named twice, or outside a folder (not None)."""
    # `join` keeps an absolute path.
    paths = [os.path.join(folder or "", name) for name in names]
    # Different spellings of a path name the same image.
    spelled = [os.path.abspath(path) for path in paths]
    if folder is not None:
        inside = os.path.join(os.path.abspath(folder), "")
        outside = [path for path, full in zip(paths, spelled, strict=True) if not full.startswith(inside)]
        if outside:
            raise ValueError(
                f"{len(outside)} of {len(paths)} images named in {where} are outside {folder}: "
                f"{first_offenders(outside)}. Give as `root` a folder that contains all images."
            )
    absent = [path for path in paths if not os.path.isfile(path)]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of {len(paths)} images named in {where} do not exist: {first_offenders(absent)}."
        )
    refuse_repeats(spelled, where)
    return np.array(paths, dtype=str)


def refuse_repeats(names, where):
    """Raise ValueError if an image is named twice."""
    names, counts = np.unique(names, return_counts=True)
    repeated = names[counts > 1]
    if len(repeated):
        raise ValueError(
            f"{len(repeated)} images are named more than once in {where}: {first_offenders(repeated)}. An image in two "
            "splits would be tested on what it was trained on; keep one line of each."
        )
