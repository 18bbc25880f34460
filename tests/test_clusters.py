"""The method under every joblib backend, with real clusters of two workers, gives what one process gives."""

import os
import signal
from contextlib import contextmanager

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV

from skexmap import DFRClassifier, DFRClassifierCV, HeatmapTransformer
from skexmap.datasets import make_shortcut_features

pytestmark = [
    pytest.mark.slow,
    # Workers are slow to start on a busy machine; both libraries warn of what this package does not control.
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
    ),
]


@contextmanager
def dask_cluster():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster, distributed.Client(cluster):
        yield {"backend": "dask"}


@contextmanager
def ray_cluster():
    ray = pytest.importorskip("ray")
    from joblib.pool import PicklingPool
    from ray.util.joblib import register_ray

    bases = PicklingPool.__bases__
    register_ray()
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        yield {"backend": "ray", "n_jobs": -1}
    finally:
        ray.shutdown()
        # Ray's backend replaces the pool of joblib's "multiprocessing" too.
        PicklingPool.__bases__ = bases


CLUSTERS = {"dask": dask_cluster, "ray": ray_cluster}


@pytest.fixture(scope="module", params=["loky", "threading", "multiprocessing", "dask", "ray"])
def backend(request):
    """Arguments of `joblib.parallel_config` for two workers, which live as long as the tests of a backend."""
    if request.param not in CLUSTERS:
        yield {"backend": request.param, "n_jobs": 2}
        return
    with CLUSTERS[request.param]() as config:
        yield config


@pytest.fixture(scope="module")
def features():
    X, y, shortcut = make_shortcut_features(random_state=0)
    return X, y, 2 * y + shortcut


def test_heatmaps_and_embeddings_are_bitwise_those_of_one_process(backend, net, images):
    heatmaps = HeatmapTransformer(net, size=4, return_embedding=True, batch_size=7)
    expected = heatmaps.fit_transform(images[0])
    with joblib.parallel_config(**backend):
        assert_array_equal(heatmaps.fit_transform(images[0]), expected)


@pytest.mark.parametrize("dfr", [DFRClassifier(n_retrains=3), DFRClassifierCV(n_retrains=2, n_splits=2)])
def test_refits_and_tuning_are_those_of_one_process(backend, dfr, features):
    X, y, groups = features
    dfr.set_params(random_state=0)
    expected = dfr.fit(X, y, group_labels=groups).coef_
    with joblib.parallel_config(**backend):
        assert_array_equal(dfr.fit(X, y, group_labels=groups).coef_, expected)


def test_a_search_over_the_whole_method_is_that_of_one_process(backend, exmap, images):
    search = GridSearchCV(exmap, {"strategy__C": [1.0, 10.0]}, cv=2)
    expected = search.fit(*images).cv_results_
    with joblib.parallel_config(**backend):
        found = search.fit(*images).cv_results_
    for name in ("split0_test_score", "split1_test_score", "mean_test_score"):
        assert_array_equal(found[name], expected[name])
    assert expected["mean_test_score"].max() > 0


class KillsItsProcess:
    """A `load` that kills the process that first reads image 40."""

    def __init__(self, file):
        self.file = file

    def __call__(self, item):
        row, image = item
        if row == 40 and self.file.exists():
            self.file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.as_tensor(image)


@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs:UserWarning")
@pytest.mark.parametrize("backend", ["loky", "dask"], indirect=True)
def test_batches_of_a_worker_that_is_killed_are_computed_again(backend, net, images, tmp_path):
    file = tmp_path / "kill"
    heatmaps = HeatmapTransformer(net, size=4, batch_size=7)
    expected = heatmaps.fit_transform(images[0])
    file.touch()
    heatmaps.set_params(load=KillsItsProcess(file))
    with joblib.parallel_config(**backend):
        assert_array_equal(heatmaps.fit_transform(list(enumerate(images[0]))), expected)
    assert not file.exists()
    assert np.isfinite(expected).all()
