"""Read tables and folders that name images; errors give the number of problems and the first ones."""

import csv
import os

import numpy as np

N_SHOWN = 5
SPLIT_CODES = {"0": "train", "1": "validation", "2": "test"}


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


def read_csv(path):
    """Return the column names of a CSV file, and its rows as lists of str."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, skipinitialspace=True, strict=True) if any(line)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}.") from error
    return ([name.strip() for name in lines[0]], lines[1:]) if lines else ([], [])


def select_columns(path, header, rows, columns):
    """Return columns of a table as a dict of str to list of str."""
    # Raise ValueError if a column is missing, the table has no rows, or a value is missing.
    missing = [column for column in columns if column not in header]
    if missing:
        raise ValueError(
            f"{path} has no column {first_offenders(missing)}. It has: {', '.join(header) or 'nothing'}."
        )
    if not rows:
        raise ValueError(f"{path} is empty: it has columns, but names no images.")
    ragged = [row[0] for row in rows if len(row) != len(header)]
    if ragged:
        raise ValueError(
            f"{len(ragged)} of {len(rows)} lines of {path} do not have {len(header)} values; they begin with "
            f"{first_offenders(ragged)}."
        )
    positions = {column: header.index(column) for column in columns}
    table = {column: [row[i].strip() for row in rows] for column, i in positions.items()}
    for column, values in table.items():
        # NumPy and pandas write "nan" for a missing value.
        empty = [i for i, value in enumerate(values, start=1) if value.lower() in ("", "nan")]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(values)} values of {column!r} in {path} are empty: numbers "
                f"{first_offenders(empty)}."
            )
    return table


def decode(values, codes, what, path):
    """Translate values by a table; raise ValueError with the values that are not in the table."""
    unknown = [value for value in values if value not in codes]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(values)} values of {what!r} in {path} are unknown: "
            f"{first_offenders(sorted({repr(value) for value in unknown}))}. Known are {', '.join(codes)}."
        )
    return np.array([codes[value] for value in values])


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
