"""A folder of blocks: the results of a batch of images in one file, found by what each image is."""

import contextlib
import errno
import functools
import hashlib
import io
import math
import mmap
import os
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import torch

from skexmap._validation import warn
from skexmap.exceptions import SkexmapWarning
from skexmap.features._identity import digest
from skexmap.features._loading import files_in, in_batches, loader_of

KEYS = "keys"
# Larger results than these bytes are in a file.
LARGEST_IN_MEMORY = 2**28
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# Half-written files and claims that are older than these seconds belong to a process that was killed.
LONGEST_BATCH = 3600


class BlockStore:
    """The results, as blocks of a dtype, that one model with one set of settings (their digest) has in a folder."""

    def __init__(self, folder, settings, dtype):
        self.folder = Path(folder) / settings.hex()[:32]
        self.settings = settings
        self.dtype = dtype
        self.n_damaged = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        # Key of an image -> (file, row).
        self.places = {}
        self.claims = set()
        for path in sorted(self.folder.iterdir()):
            if path.suffix == ".npz":
                self._add(path)
            elif path.suffix in (".tmp", ".claim"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > LONGEST_BATCH:
                        path.unlink()

    def _add(self, path):
        # To open a pipe would be to wait for its writer.
        if os.path.isfile(path):
            state = self._read(os.stat, path)
            keys = state and self._read(_keys_in, path, state.st_mtime_ns, state.st_size)
            self.places.update((key, (path, row)) for row, key in enumerate(keys or ()))

    def __contains__(self, key):
        return key in self.places

    def key(self, identity):
        """Return the key of an image for bytes, or an array of bytes, that identify it."""
        found = hashlib.sha256(self.settings)
        found.update(identity)
        return found.digest()

    def path_of(self, keys):
        """Return the file for the blocks of a batch of images."""
        return self.folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:32]}.npz"

    def claim(self, keys):
        """Return whether this process is to compute a batch: no other has computed it since, or is about to."""
        path = self.path_of(keys)
        claim = path.with_suffix(".claim")
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:
            # If the folder cannot be written to, `keep` says why.
            return True
        self.claims.add(claim)
        if path.exists():
            self._release(claim)
            return False
        return True

    def _release(self, claim):
        claim.unlink(missing_ok=True)
        self.claims.discard(claim)

    def release_all(self):
        """Remove the claims on batches that were not computed."""
        for claim in list(self.claims):
            self._release(claim)

    def holds(self, keys):
        """Return whether the blocks of a batch are there, perhaps from another process."""
        self._add(self.path_of(keys))
        return all(key in self.places for key in keys)

    def keep(self, keys, blocks):
        """Store the blocks of a batch of images as one file, in full or not at all, and return them."""
        path = self.path_of(keys)
        arrays = {KEYS: np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1), **blocks}
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
            os.replace(temporary, path)
        except IsADirectoryError:
            # Something else has the name of the file. It is not ours to remove.
            self.n_damaged += 1
            return blocks
        except OSError as error:
            raise _no_room(error, self.folder, sum(values.nbytes for values in arrays.values())) from None
        finally:
            temporary.unlink(missing_ok=True)
            self._release(path.with_suffix(".claim"))
        self.places.update((key, (path, row)) for row, key in enumerate(keys))
        return blocks

    def files_of(self, keys, rows):
        """Return the files that hold some rows: path -> (rows, positions in the file)."""
        files = {}
        for row in rows:
            path, position = self.places[keys[row]]
            held = files.setdefault(path, ([], []))
            held[0].append(row)
            held[1].append(position)
        return files

    def read(self, path, keys, positions):
        """Return the blocks at some positions of a file; None if it is damaged or does not hold these keys there."""
        blocks = self._read(_arrays_in, path, [KEYS, *self.dtype.names])
        if blocks is None:
            return None
        held = blocks.pop(KEYS)
        expected = {name: (self.dtype[name].base, (len(held), *self.dtype[name].shape)) for name in blocks}
        found = {name: (values.dtype, values.shape) for name, values in blocks.items()}
        if found != expected or max(positions) >= len(held) or [held[i].tobytes() for i in positions] != keys:
            self._drop(path)
            return None
        # Rows in the order of the file are the usual case.
        is_all = positions == list(range(len(held)))
        return blocks if is_all else {name: values[positions] for name, values in blocks.items()}

    def _read(self, read, path, *args):
        """Return ``read(path, *args)``; None if the file is gone, or is damaged and now removed."""
        try:
            return read(path, *args)
        except FileNotFoundError:
            return None
        # A file that is truncated or something else may fail in any way, also by a seek to before its start.
        except Exception as error:
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
                raise
            self._drop(path)
            return None

    def _drop(self, path):
        """Remove a damaged file, so that it is reported once."""
        self.n_damaged += 1
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)

    def warn_of_damage(self):
        """Warn once of all damaged files."""
        if self.n_damaged:
            warn(
                f"{self.n_damaged} files of the cache in {str(self.folder)!r} were damaged. Their images were computed "
                "again. Check the disk if this happens repeatedly.",
                SkexmapWarning,
            )


@functools.lru_cache(maxsize=4096)
def _keys_in(path, mtime_ns, size):
    """Return the keys of a file; its time and size are arguments to tell its versions apart."""
    keys = _arrays_in(path, [KEYS])[KEYS]
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != hashlib.sha256().digest_size:
        raise ValueError("not keys")
    return [key.tobytes() for key in keys]


def _arrays_in(path, names):
    """Return arrays of a file, each compared with its checksum, and with the bytes that are there."""
    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as file:
        # What a file claims to hold may be more than the memory.
        if any(not entry.file_size == entry.compress_size <= size for entry in file.infolist()):
            raise ValueError("not written by this program")
        contents = {name: io.BytesIO(file.read(f"{name}.npy")) for name in names}
    return {name: _array_in(content) for name, content in contents.items()}


def _array_in(content):
    """Return the array in the bytes of an .npy file; raise ValueError if it claims more bytes, or objects."""
    np.lib.format.read_magic(content)
    shape, _, dtype = np.lib.format.read_array_header_1_0(content, max_header_size=1000)
    return np.frombuffer(content.getbuffer(), dtype, math.prod(shape), content.tell()).reshape(shape)


def _no_room(error, folder, n_bytes):
    """Return the error to raise when a file could not be written."""
    if error.errno not in NO_ROOM:
        return error
    return OSError(
        error.errno,
        f"The cache has no room for {n_bytes:,} more bytes in {str(folder)!r}. What it holds is complete, and the next "
        "call goes on from there. Free some space, pass another folder as `cache`, or pass cache=None",
    )


def stored_batches(store, files, place, batch_size):
    """Yield ``(rows, blocks)`` for all images, in any order; a place computes those that the store lacks."""
    # `files` identifies the images; None if their pixels do. The place has `read`, `batches` and `compute`.
    keys, deferred, computed = {}, [], set()

    def keys_of(rows):
        return [keys[row] for row in rows]

    def is_ours(rows):
        is_claimed = store.claim(keys_of(rows))
        if not is_claimed:
            deferred.append(rows)
        return is_claimed

    def kept(batches):
        for rows, blocks in place.compute(batches):
            computed.update(rows)
            yield rows, store.keep(keys_of(rows), blocks)

    # An interrupted run goes on with the batches that it would have had, so its results are bitwise the same. So do
    # other processes, which makes them claim the same batches.
    if files is None:
        missing = _missing_batches(place.read(), keys, store, batch_size)
        batches = (batch for batch in missing if is_ours(batch[0]))
    else:
        keys.update((row, store.key(file)) for row, file in enumerate(files))
        missing = [row for row, key in keys.items() if key not in store]
        batches = place.batches(filter(is_ours, in_batches(missing, batch_size)))
    try:
        yield from kept(batches)
    finally:
        store.release_all()
    # What others have claimed is there now, is computed at this moment, or was left by a process that was killed.
    yield from kept(place.batches([rows for rows in deferred if not store.holds(keys_of(rows))]))
    held = [row for row in keys if row not in computed and keys[row] in store]
    for path, (rows, positions) in store.files_of(keys, held).items():
        blocks = store.read(path, keys_of(rows), positions)
        if blocks is not None:
            computed.update(rows)
            yield rows, blocks
    lost = [row for row in keys if row not in computed]
    yield from kept(place.batches(in_batches(lost, batch_size)))


def _missing_batches(batches, keys, store, batch_size):
    """Set the keys of all images; yield those that the store lacked in batches of full size."""
    known = set(store.places)
    rows, images = [], []
    for batch_rows, batch in batches:
        found = list(map(store.key, _identities(batch)))
        keys.update(zip(batch_rows, found, strict=True))
        missing = [i for i, key in enumerate(found) if key not in known]
        known.update(found)
        if not missing:
            continue
        rows = rows + [batch_rows[i] for i in missing]
        images = torch.cat([images, batch[missing]]) if len(images) else batch[missing]
        if len(rows) >= batch_size:
            yield rows[:batch_size], images[:batch_size]
            rows, images = rows[batch_size:], images[batch_size:].clone()
    if rows:
        yield rows, images


def _identities(images):
    """Yield what identifies each image of a batch: its type, shape and bytes."""
    kind = f"{images.dtype} {tuple(images.shape[1:])}".encode()
    array = images.contiguous().cpu().flatten(1).view(torch.uint8).numpy()
    yield from (kind + row.tobytes() for row in array)


def file_identities(X, load):
    """Return what identifies each image if X holds files that this package opens: path, size and time; else None."""
    files = files_in(X, load)
    if files is None:
        return None
    transform = digest(loader_of(load))
    return [transform + _identity_of_files(own) for own in files]


def _identity_of_files(files):
    states = [os.stat(file) for file in files]
    text = [os.path.abspath(files[0]), *((state.st_size, state.st_mtime_ns) for state in states)]
    return repr(text).encode("utf-8", "surrogatepass")


def empty_rows(folder, n_rows, dtype):
    """Return an array for results; a large one is in a file without a name, which lives as long as the array."""
    # Its pages leave the memory when others need it. It is not an `np.memmap`, whose file joblib would open by name.
    n_bytes = n_rows * dtype.itemsize
    if n_bytes <= LARGEST_IN_MEMORY:
        return np.empty(n_rows, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            file.truncate(n_bytes)
            # Without room reserved for it, writing to the map would kill the process on a full disk.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError as error:
            raise _no_room(error, folder, n_bytes) from None
        return np.frombuffer(mmap.mmap(file.fileno(), n_bytes), dtype=dtype)
