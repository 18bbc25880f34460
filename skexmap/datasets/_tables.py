"""Read tables that name images; errors give the number of problems and the first ones."""

import csv
import os

import numpy as np

N_SHOWN = 5


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
        values = [[value.strip() for value in column] for column in zip(*lines, strict=True)]
        self.columns = dict(zip([name.strip() for name in header], values, strict=True))

    @classmethod
    def from_csv(cls, path):
        """Read a CSV file; values may be quoted, and quoted values may have several lines."""
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                lines = [line for line in csv.reader(file, skipinitialspace=True, strict=True) if any(line)]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a CSV file in UTF-8: {error}.") from error
        return cls(path, lines[0] if lines else [], lines[1:])

    def __getitem__(self, column):
        """Return the values of a column; raise ValueError if it does not exist, or a value is missing."""
        if column not in self.columns:
            raise ValueError(f"{self.path} has no column {column!r}. It has: {', '.join(self.columns)}.")
        values = self.columns[column]
        # NumPy and pandas write "nan" for a missing value.
        empty = [i for i, value in enumerate(values, start=1) if value.lower() in ("", "nan")]
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
    """Return the paths of images as an array; raise if files do not exist or an image is named twice."""
    # `join` keeps an absolute path.
    paths = [os.path.join(folder, name) for name in names]
    absent = [path for path in paths if not os.path.isfile(path)]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of {len(paths)} images named in {where} do not exist: {first_offenders(absent)}."
        )
    # Different spellings of a path name the same image.
    refuse_repeats([os.path.abspath(path) for path in paths], where)
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
