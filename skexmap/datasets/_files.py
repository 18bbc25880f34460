"""Reading tables and folders of images, and refusing broken ones before any work is done."""

import csv
import os
import re
from pathlib import Path

import numpy as np

N_SHOWN = 5
SPLIT_CODES = {"0": "train", "1": "validation", "2": "test"}
SPLIT_ALIASES = {"val": "validation", "valid": "validation", **SPLIT_CODES}

# How a file of each kind begins and ends; a file cut short lacks its end.
_FORMATS = (
    (b"\xff\xd8\xff", b"\xff\xd9"),
    (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
)
VERIFY = ("exists", "quick", "full")


def first_offenders(offenders):
    """Return the first offenders as text, with how many more there are."""
    shown = ", ".join(str(offender) for offender in offenders[:N_SHOWN])
    more = len(offenders) - N_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def require_files(*paths, advice="Give as `root` the folder that has them."):
    """Raise FileNotFoundError naming all that do not exist, what their folder holds, and what to do."""
    missing = [Path(path) for path in paths if not Path(path).exists()]
    if not missing:
        return
    raise FileNotFoundError(
        f"{len(missing)} of {len(paths)} files or folders are missing: {first_offenders(missing)}; "
        f"{what_is_at(missing[0].parent)}. {advice}"
    )


def require_folders(*paths, advice="Give as `root` the folder that has them."):
    """Raise FileNotFoundError naming all that do not exist or are files, and what to do."""
    require_files(*paths, advice=advice)
    files = [path for path in paths if not os.path.isdir(path)]
    if files:
        raise FileNotFoundError(
            f"{len(files)} of {len(paths)} folders are files: {first_offenders(files)}. {advice}"
        )


def what_is_at(folder):
    """Return as text what a folder holds, or why it holds nothing."""
    if folder.is_dir():
        holds = sorted(entry.name for entry in folder.iterdir())
        return f"{folder} holds {first_offenders(holds) if holds else 'nothing'}"
    file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    return f"the folder {folder} does not exist" if file is None else f"{file} is a file and no folder"


def read_lines(path):
    """Return ``(number, line)`` of the lines of a text file that are not blank, counted from 1.

    Raise FileNotFoundError if the file is absent or a folder, ValueError if it is not UTF-8.
    """
    require_files(path)
    if os.path.isdir(path):
        raise FileNotFoundError(f"{path} is a folder. Give the file that lists the images.")
    try:
        # Not `splitlines`: it breaks lines at characters that a file name may have, too.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file in UTF-8: {error}. Save it as one.") from error
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def read_csv(path, columns):
    """Read columns of a CSV file.

    Parameters
    ----------
    path : path-like
        The file; its first line names the columns.
    columns : sequence of str or callable
        The columns wanted, or what chooses them from the list of those there are.

    Returns
    -------
    values : dict of str to list of str
        Blanks around a value do not belong to it.
    numbers : list of int
        Number of the line that each value is in; the file may have empty lines.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column is missing or there twice, a line has too few or too many values or a quote that is not closed, a
        value is empty, there is no line, or the file is not UTF-8.
    """
    rows, numbers = _read_rows(path)
    present = [name.strip() for name in rows[0]] if rows else []
    rows, numbers = rows[1:], numbers[1:]
    columns = columns(present) if callable(columns) else columns
    missing = [column for column in columns if column not in present]
    if missing:
        there = f"It has: {', '.join(present)}." if present else "It is empty."
        raise ValueError(f"{path} has no column {first_offenders(missing)}. {there}")
    repeated = [column for column in columns if present.count(column) > 1]
    if repeated:
        raise ValueError(f"{path} has more than one column {first_offenders(repeated)}. Leave one of each.")
    refuse_lines([len(row) < len(present) for row in rows], "have too few values", path, numbers)
    refuse_lines([len(row) > len(present) for row in rows], "have too many values", path, numbers)
    if not rows:
        raise ValueError(f"{path} has column names but no lines.")
    values = {column: [row[present.index(column)].strip() for row in rows] for column in columns}
    for column, entries in values.items():
        refuse_lines([not entry for entry in entries], f"have no {column}", path, numbers)
    return values, numbers


OPEN_QUOTE = "unexpected end of data"


def _read_rows(path):
    """Return the values of each record of a CSV file, and the number of the line that each begins in."""
    lines = read_lines(path)
    rows, numbers, broken = [], [], []
    i = 0
    while i < len(lines):
        number, text = lines[i]
        row, error = _parse(text)
        last = i
        # A value in quotes may have line breaks. But a quote that somebody forgot to close would take the lines after
        # it, and their images, into one value: a line that is a record by itself is no part of a value.
        while error == OPEN_QUOTE and last + 1 < len(lines):
            last += 1
            following = lines[last][1]
            by_itself = _parse(following, strict=False)[0] or []
            if rows and len(by_itself) == len(rows[0]):
                break
            text = f"{text}\n{following}"
            row, error = _parse(text)
        if error is None:
            rows.append(row)
            numbers.append(number)
            i = last + 1
        else:
            broken.append(f"line {number} ({error})")
            i += 1
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(lines)} lines of {path} are no lines of a CSV file: {first_offenders(broken)}. "
            "Close every quote that is opened, put nothing but a comma after it, and write a quote within quotes twice."
        )
    return rows, numbers


def _parse(text, *, strict=True):
    """Return the values of one record and None, or None and what is wrong with it."""
    # Blanks between a closing quote and the comma belong to no value.
    text = re.sub(r'"[ \t]+(?=,|\n|$)', '"', text)
    lines = (f"{line}\n" for line in text.split("\n"))
    try:
        return next(csv.reader(lines, skipinitialspace=True, strict=strict)), None
    except csv.Error as error:
        return None, str(error)


def refuse_lines(offends, what, path, numbers):
    """Raise ValueError if a line offends; the message has how many do and the numbers of the first ones.

    Parameters
    ----------
    offends : sequence of bool
        One per line.
    what : str
        What they do; part of the message.
    path : path-like
        The file.
    numbers : sequence of int
        Number of each line in the file.
    """
    lines = [number for number, offence in zip(numbers, offends, strict=True) if offence]
    if lines:
        raise ValueError(
            f"{len(lines)} of {len(offends)} lines of {path} {what}: lines {first_offenders(lines)}."
        )


def decode(values, codes, what, path, numbers):
    """Translate text by a table; raise ValueError that lists the values the table lacks.

    Parameters
    ----------
    values : list of str
        One per line.
    codes : dict
        From text to what it means.
    what : str
        Name of the column.
    path : path-like
        Where it was read.
    numbers : list of int
        Number of each line in the file.

    Returns
    -------
    decoded : list
    """
    lines = [number for number, value in zip(numbers, values, strict=True) if value not in codes]
    if lines:
        unknown = sorted({value for value in values if value not in codes})
        raise ValueError(
            f"{len(lines)} of {len(values)} lines of {path} have an unknown {what}: "
            f"{first_offenders([repr(value) for value in unknown])} (lines {first_offenders(lines)}). "
            f"Known are {', '.join(codes)}."
        )
    return [codes[value] for value in values]


def check_no_repeats(names, files, where):
    """Raise ValueError if an image is named twice: it could be in two splits.

    Parameters
    ----------
    names : sequence of str
        Images as the table names them.
    files : sequence of path-like
        The file that each name means; two ways to write one path mean one file.
    where : path-like
        The table.
    """
    spellings = {}
    for name, file in zip(names, files, strict=True):
        spellings.setdefault(os.path.abspath(file), []).append(name)
    repeated = [" = ".join(dict.fromkeys(same)) for same in spellings.values() if len(same) > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} images are named more than once in {where}: {first_offenders(repeated)}. "
            "An image in two splits would be tested on what it was trained on; keep one line of each."
        )


def check_images(paths, where, verify="quick"):
    """Raise if image files are absent or cannot be read.

    Parameters
    ----------
    paths : sequence of str
        The files.
    where : str
        What named them; part of the message.
    verify : {"exists", "quick", "full"}, default="quick"
        ``"exists"`` only looks whether each file is there. ``"quick"`` also looks at the first and last bytes, and
        decodes only files that look odd. ``"full"`` decodes every file.

    Raises
    ------
    FileNotFoundError
        If files are absent; the message has their number and the first ones.
    ValueError
        If files are empty, truncated or no images, likewise; or if `verify` is unknown.
    """
    if verify not in VERIFY:
        raise ValueError(f"verify must be one of {', '.join(map(repr, VERIFY))}, got {verify!r}.")
    absent = [path for path in paths if not os.path.isfile(path)]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of {len(paths)} images named in {where} are absent: {first_offenders(absent)}."
        )
    if verify == "exists":
        return
    unreadable = [paths[i] for i in unreadable_images(paths, verify)]
    if unreadable:
        raise ValueError(
            f"{len(unreadable)} of {len(paths)} images named in {where} are truncated or unreadable: "
            f"{first_offenders(unreadable)}. Restore them or take them out of the list."
        )


def check_sizes_agree(paths, mask_paths, where):
    """Raise ValueError if a mask differs in size from its image; only the headers of the files are read.

    Parameters
    ----------
    paths, mask_paths : sequence of str
        Images and the mask of each.
    where : str
        What named them; part of the message.
    """
    from PIL import Image

    def size_of(path):
        with open(path, "rb") as file, Image.open(file) as image:
            return image.size

    odd = [mask for path, mask in zip(paths, mask_paths, strict=True) if size_of(path) != size_of(mask)]
    if odd:
        raise ValueError(
            f"{len(odd)} of {len(mask_paths)} masks of images named in {where} differ in size from their images: "
            f"{first_offenders(odd)}."
        )


def unreadable_images(paths, verify="quick"):
    """Return the indices of the image files that are absent, empty, truncated or no images.

    Parameters
    ----------
    paths : sequence of path-like
        The files.
    verify : {"quick", "full"}, default="quick"
        As for `check_images`.

    Returns
    -------
    indices : list of int
    """
    suspects = [i for i, path in enumerate(paths) if verify == "full" or not _looks_whole(path)]
    return [i for i in suspects if not _can_be_decoded(paths[i])]


def _looks_whole(path):
    """Return whether the first and last bytes are those of a whole JPEG or PNG file."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16))
            end = file.read()
    except OSError:
        # No permission, or a broken disk: it counts among the unreadable ones, of which all are reported at once.
        return False
    return any(start.startswith(begins) and ends in end for begins, ends in _FORMATS)


def _can_be_decoded(path):
    # Imported late: Pillow comes with torchvision, but the rest of the package does without both.
    from PIL import Image

    try:
        # Opened here: Pillow leaves a file that it opened and could not read open.
        with open(path, "rb") as file, Image.open(file) as image:
            image.load()
    # Pillow reports a broken file by half a dozen exceptions, among them SyntaxError; all mean the same here.
    except Exception:
        return False
    return True


def path_array(paths):
    """Return paths as an array that scikit-learn can index by rows."""
    return np.array([str(path) for path in paths], dtype=str)
