"""Where the batches of a call are computed: in this process, or as joblib tasks on other cores and machines."""

import copy
import hashlib
import pickle
import threading
from contextlib import ExitStack
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs, wrap_non_picklable_objects
from joblib.parallel import get_active_backend

from skexmap._torch import TensorState
from skexmap.features._loading import Images, image_batches, in_batches, rows_of
from skexmap.lrp._registry import declared_rules

# Backends whose workers run on this machine; all others belong to a cluster.
LOCAL = ("LokyBackend", "MultiprocessingBackend", "SequentialBackend", "ThreadingBackend")
# Batches that each worker gets before the results are stored: they fit in memory, and the progress bar moves.
BATCHES_PER_ROUND = 4
# Errors, by the names of their classes, that say that a worker died. Dask and Ray need not be installed.
LOSSES = ("BrokenExecutor", "CancelledError", "KilledWorker", "RayActorError", "WorkerCrashedError")


def place_of(transformer, X, replica):
    """Return where `n_jobs` and joblib's configuration let a call compute: `InProcess` or `Jobs`."""
    backend, _ = get_active_backend()
    is_local = type(backend).__name__ in LOCAL
    n_jobs = 1 if transformer.n_jobs == 1 else effective_n_jobs(transformer.n_jobs)
    if is_local and replica.device.type != "cpu":
        # One process keeps the GPU busy if it does not have to wait for images.
        return InProcess(transformer, X, replica, n_readers=n_jobs if n_jobs > 1 else 0)
    if is_local:
        n_jobs = min(n_jobs, -(-len(X) // transformer.batch_size))
    if transformer.n_jobs == 1 or (is_local and n_jobs == 1):
        return InProcess(transformer, X, replica)
    device = "auto" if transformer.device == "auto" and not is_local else replica.device.type
    return Jobs(transformer, X, replica, device, n_jobs, backend.inner_max_num_threads or 1)


class InProcess:
    """Reads and computes batches here, or reads them in the processes of a DataLoader."""

    def __init__(self, transformer, X, replica, n_readers=0):
        self.transformer, self.X, self.replica, self.n_readers = transformer, X, replica, n_readers
        self.device = replica.device.type

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def read(self, batches=None):
        """Yield ``(rows, images)`` for lists of rows of X, drawn as they are read; all rows by default."""
        batches = self._all_rows() if batches is None else batches
        for rows, images in image_batches(self.X, self.transformer.load, batches, self.n_readers):
            self.transformer._check_batch(images, rows)
            yield rows, images

    def _all_rows(self):
        return in_batches(range(len(self.X)), self.transformer.batch_size)

    # What `compute` takes.
    batches = read

    def compute(self, batches):
        """Yield ``(rows, blocks)`` for each batch."""
        for rows, images in batches:
            yield rows, self.transformer._run(self.replica, images)


class Jobs(InProcess):
    """Sends batches to the workers of a joblib backend, in rounds; a worker reads its images itself if it can."""

    def __init__(self, transformer, X, replica, device, n_jobs, n_threads):
        super().__init__(transformer, X, replica)
        self.device, self.n_jobs, self.n_threads = device, n_jobs, n_threads
        self.images = Images(X, transformer.load)
        # Of lists, tables and arrays, a batch travels; a data set travels as a whole, and reads in the worker.
        self.has_rows = isinstance(self.images.X, list | tuple) or hasattr(self.images.X, "ndim")
        self.n_done, self.may_repeat = 0, True
        self._exit = ExitStack()
        self.n_threads_before = torch.get_num_threads()

    def __exit__(self, *error):
        self._exit.close()
        # Workers that are threads set the number for this process.
        torch.set_num_threads(self.n_threads_before)

    def batches(self, batches=None):
        """Yield ``(rows, None)``: the images are read by the workers."""
        yield from ((rows, None) for rows in (self._all_rows() if batches is None else batches))

    def compute(self, batches):
        """Yield ``(rows, blocks)`` for each batch, in order."""
        batches = iter(batches)
        while todo := list(islice(batches, BATCHES_PER_ROUND * self.n_jobs)):
            for (rows, _), blocks in zip(todo, self._round(todo), strict=True):
                self.n_done += len(rows)
                yield rows, blocks

    @cached_property
    def pool(self):
        return self._exit.enter_context(Parallel(self.n_jobs, batch_size=1))

    @cached_property
    def parcel(self):
        """What all batches need, pickled once into an array, which joblib's backends share, and its digest."""
        transformer = copy.copy(self.transformer)
        transformer.cache = None
        X = None if self.has_rows else self.images.X
        try:
            packed = _pickled((transformer, X, sorted(declared_rules())))
        except Exception as error:
            raise TypeError(
                f"The model ({type(transformer.model).__name__}), `load`, `attribution` or the data set cannot be "
                f"pickled, so it cannot be sent to other workers ({type(error).__name__}: {error}). Remove what cannot "
                "be pickled, such as a lock or an open file, or pass n_jobs=1."
            ) from error
        return np.frombuffer(packed, dtype=np.uint8), hashlib.sha256(packed).digest()

    def _round(self, todo):
        """Return the blocks of some batches; once in a call, batches that are lost with a worker are repeated."""
        parcel, digest = self.parcel
        try:
            return self.pool(
                delayed(compute_batch)(parcel, digest, self._packed(*batch), self.n_threads) for batch in todo
            )
        except Exception as error:
            if not any(cls.__name__ in LOSSES for cls in type(error).__mro__):
                raise
            if self.may_repeat:
                self.may_repeat = False
                return self._round(todo)
            is_kept = self.transformer.cache is not None
            raise RuntimeError(
                f"Workers died twice ({type(error).__name__}); {self.n_done} of {len(self.X)} images had been "
                f"computed{' and are in the cache: the next call continues there' if is_kept else ''}. Workers mostly "
                f"die for lack of memory: pass a smaller `batch_size` or fewer `n_jobs`"
                f"{'' if is_kept else ', and a folder as `cache` to keep what is done'}."
            ) from error

    def _packed(self, rows, images):
        items = rows_of(self.images.X, rows) if images is None and self.has_rows else None
        return _pickled(_frozen((rows, items, self.images.are_read, images)))


def _frozen(value):
    """Return a value with its tensors as arrays, which are pickled without the rest of a storage that they share."""
    if isinstance(value, torch.Tensor):
        return TensorState(value)
    return type(value)(map(_frozen, value)) if type(value) in (list, tuple) else value


def _thawed(value):
    """Undo `_frozen`."""
    if isinstance(value, TensorState):
        return value.restore()
    return type(value)(map(_thawed, value)) if type(value) in (list, tuple) else value


def _pickled(value):
    """Return a value as bytes; functions and classes of the script that runs are pickled as what they contain."""
    return pickle.dumps(wrap_non_picklable_objects(value, keep_wrapper=False), protocol=5)


class _Held(threading.local):
    """The last net of each thread of a worker."""

    digest = content = None


_HELD = _Held()


def compute_batch(parcel, digest, packed, n_threads):
    """Return the blocks of one batch, with the net of a parcel, which is unpacked if the last one was another."""
    # First of all: a forked process would wait forever for threads of its parent, which it does not have.
    if torch.get_num_threads() != n_threads:
        torch.set_num_threads(n_threads)
    if _HELD.digest != digest:
        # Let go of the last net before the memory of the next is needed.
        _HELD.digest = _HELD.content = None
        _HELD.content, _HELD.digest = _unpacked(parcel), digest
    transformer, replica, X = _HELD.content
    rows, items, are_read, images = _thawed(pickle.loads(packed))
    if images is None:
        images = Images(X, transformer.load).read(rows, items, are_read)
        transformer._check_batch(images, rows)
    return transformer._run(replica, images)


def _unpacked(parcel):
    try:
        transformer, X, rules = pickle.loads(parcel)
    except Exception as error:
        raise RuntimeError(
            f"A worker cannot unpickle the model, `load` or data set ({type(error).__name__}: {error}). Install the "
            "modules that define them on the workers, or define them in the script that you run."
        ) from error
    missing = sorted(set(rules) - set(declared_rules()))
    if missing:
        raise RuntimeError(
            f"{len(missing)} registered relevance rules are unknown to a worker: {missing[:5]}. Call "
            "`skexmap.lrp.register` in the module that defines the model, so that each worker does, or pass n_jobs=1."
        )
    return transformer, transformer._replica(), X
