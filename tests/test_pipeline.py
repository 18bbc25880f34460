"""The asked-for pipeline inside scikit-learn: copies, caches, workers, output containers, and what they may cost."""

import copy
import gc
import hashlib
import os
import pickle
import subprocess
import sys
import textwrap
import warnings

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from small_pipeline import make_images, make_net, make_pipe

from skexmap import (
    DFRClassifier,
    EigengapSpectralClustering,
    ExMapClassifier,
    HeatmapTransformer,
    PseudoGroupLabeler,
    make_exmap_pipeline,
)
from skexmap._torch import _REPLICAS, Replica, TensorState, replica_of, writable
from skexmap.features._base import N_TRIAL_IMAGES as N_TRIAL

pytestmark = pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")

IN_ANOTHER_PROCESS = "from small_pipeline import make_images, make_net, make_pipe\n"


def output_of_another_process(script):
    """Run a script beside the tests and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS + script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def net():
    return make_net()


@pytest.fixture
def images():
    return make_images()


@pytest.fixture
def pipe(net):
    return make_pipe(net)


@pytest.fixture
def passes(monkeypatch):
    """Count the images that go through the relevance pass."""
    seen = []
    attribute = HeatmapTransformer._attribute

    def counted(self, images, *args):
        seen.append(len(images))
        return attribute(self, images, *args)

    monkeypatch.setattr(HeatmapTransformer, "_attribute", counted)
    return seen


class TestTheAskedForPipeline:
    def test_it_fits_and_predicts(self, net, images):
        X, y = images
        pipe = Pipeline(
            [
                ("heatmaps", HeatmapTransformer(net, return_embedding=True)),
                ("clusterer", EigengapSpectralClustering(n_clusters=2, random_state=0)),
                ("dfr", DFRClassifier(min_group_size=1, random_state=0)),
            ]
        )
        assert set(pipe.fit(X, y).predict(X)) <= {"duck", "swan"}
        assert pipe.predict_proba(X).shape == (60, 2)
        made = make_exmap_pipeline(
            net,
            clusterer=EigengapSpectralClustering(n_clusters=2),
            strategy=DFRClassifier(min_group_size=1),
            random_state=0,
        )
        assert made.fit(X, y).predict(X).shape == (60,)
        assert made["clusterer"].clusterer.random_state is not None

    def test_a_missing_return_embedding_is_named(self, net, images):
        pipe = make_pipe(net).set_params(heatmaps__return_embedding=False)
        with pytest.raises(ValueError, match="return_embedding=True"):
            pipe.fit(*images)

    def test_clusters_inside_each_class_travel_with_one_cluster_per_class(self, pipe, images):
        X, y = images
        pipe.set_params(clusterer__scope="local").fit(X, y)
        blocks = pipe[:-1].transform(X)
        assert blocks["cluster"].shape == (60, 2)
        own = blocks["cluster"][np.arange(60), (y == "swan").astype(int)]
        assert_array_equal(own, pipe["clusterer"].cluster_labels_)
        assert pipe["dfr"].group_counts_.sum() == 60
        assert pipe.predict(X).shape == (60,)

    def test_any_scikit_learn_clusterer_takes_plain_heatmaps(self, net, images):
        X, _ = images
        labels = Pipeline([("heatmaps", HeatmapTransformer(net)), ("k", KMeans(2, n_init=1))]).fit_predict(X)
        assert set(labels) == {0, 1}

    def test_the_columns_are_named(self, pipe, images):
        X, y = images
        pipe.fit(X, y)
        names = pipe["heatmaps"].get_feature_names_out()
        assert names[0] == "embedding_0"
        assert_array_equal(names[-2:], [f"heatmap_{3 * 16 - 1}", "predicted_0"])
        assert_array_equal(
            pipe[:-1].get_feature_names_out(),
            [*[f"embedding_{i}" for i in range(24)], "predicted_0", "cluster_0"],
        )

    @pytest.mark.parametrize("container", ["pandas", "polars"])
    def test_data_frames_flow_through_the_whole_pipeline(self, container, pipe, images):
        frames = pytest.importorskip(container)
        X, y = images
        expected = clone(pipe).fit(X, y)
        pipe.set_output(transform=container).fit(X, y)
        blocks = pipe[:-1].transform(X)
        assert isinstance(blocks, frames.DataFrame)
        assert list(blocks.columns) == [*[f"embedding_{i}" for i in range(24)], "predicted_0", "cluster_0"]
        assert_array_equal(pipe.predict(X), expected.predict(X))
        assert_allclose(pipe["dfr"].coef_, expected["dfr"].coef_, rtol=1e-5)


class TestCopies:
    def test_a_clone_shares_the_net_and_keeps_settings_requests_and_output(self, pipe, net):
        heatmaps = pipe["heatmaps"].set_output(transform="pandas")
        copied = clone(pipe)["heatmaps"]
        assert copied.model is net
        assert copied is not heatmaps
        assert copied._sklearn_output_config == {"transform": "pandas"}
        params = {name: value for name, value in copied.get_params().items() if name != "model"}
        assert params == {name: value for name, value in heatmaps.get_params().items() if name != "model"}
        assert clone(ExMapClassifier(net, heatmaps=HeatmapTransformer(net))).heatmaps.model is net

    def test_metadata_requests_survive_clone(self, net):
        sklearn = pytest.importorskip("sklearn")
        with sklearn.config_context(enable_metadata_routing=True):
            classifier = ExMapClassifier(net).set_fit_request(group_labels=True)
            request = clone(classifier).get_metadata_routing().fit.requests
            assert request == {"group_labels": True}
            assert clone(ExMapClassifier(net)).get_metadata_routing().fit.requests == {"group_labels": False}

    @pytest.mark.parametrize(
        "copied_by", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"]
    )
    def test_a_copy_predicts_the_same_and_is_independent(self, copied_by, pipe, net, images):
        X, y = images
        pipe.fit(X, y)
        other = copied_by(pipe)
        assert_array_equal(other.decision_function(X), pipe.decision_function(X))
        copied = other["heatmaps"].model
        assert copied is not net
        for (name, ours), theirs in zip(net.state_dict().items(), copied.state_dict().values(), strict=True):
            assert ours.shape == theirs.shape, name
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
            assert ours.data_ptr() != theirs.data_ptr()
        assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in net.parameters()]
        with torch.no_grad():
            copied[0].weight.zero_()
        assert net[0].weight.abs().sum() > 0

    def test_a_shallow_copy_shares_the_net(self, pipe, net):
        assert copy.copy(pipe["heatmaps"]).model is net

    def test_tied_weights_stay_tied(self):
        net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4)
        )
        net[3].weight = net[1].weight
        copied = pickle.loads(pickle.dumps(HeatmapTransformer(net))).model
        assert copied[3].weight is copied[1].weight

    def test_a_pickled_exmap_classifier_holds_the_weights_once(self, images):
        net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(300, 500), torch.nn.ReLU(), torch.nn.Linear(500, 2)
        )
        heatmaps = HeatmapTransformer(net, size=4)
        classifier = ExMapClassifier(
            net,
            heatmaps=heatmaps,
            clusterer=PseudoGroupLabeler(KMeans(2, n_init=1), merge_alpha=None),
            strategy=DFRClassifier(min_group_size=1, n_retrains=1),
        ).fit(*images)
        size = sum(values.numel() for values in net.parameters()) * 4
        del classifier.embeddings_
        assert size < len(pickle.dumps(classifier)) < 1.3 * size
        loaded = pickle.loads(pickle.dumps(classifier))
        assert loaded.model[1].weight is loaded.transformer_.model[1].weight

    def test_bfloat16_and_channels_last_weights_come_back_as_they_were(self):
        net = (
            torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
            .to(torch.bfloat16)
            .to(memory_format=torch.channels_last)
        )
        copied = pickle.loads(pickle.dumps(HeatmapTransformer(net))).model
        assert torch.equal(copied[0].weight, net[0].weight)
        assert copied[0].weight.stride() == net[0].weight.stride()


class TestHash:
    def test_it_is_equal_for_equal_weights_in_every_copy_and_process(self, pipe, net):
        expected = joblib.hash(pipe)
        assert joblib.hash(make_pipe(make_net())) == expected
        assert joblib.hash(copy.deepcopy(pipe)) == expected
        assert joblib.hash(pickle.loads(pickle.dumps(pipe))) == expected
        net(torch.zeros(1, 3, 10, 10))
        assert joblib.hash(pipe) == expected
        script = "import joblib; print(joblib.hash(make_pipe(make_net())))"
        assert output_of_another_process(script) == expected

    def test_it_changes_with_a_weight_a_buffer_and_the_structure(self, pipe, net):
        hashes = [joblib.hash(pipe)]
        with torch.no_grad():
            net[0].weight[0, 0, 0, 0] += 1e-3
        hashes.append(joblib.hash(pipe))
        net[1].running_mean.data[0] += 1
        hashes.append(joblib.hash(pipe))
        net[3].stride = (2, 2)
        hashes.append(joblib.hash(pipe))
        assert len(set(hashes)) == 4


class TestMemory:
    def test_a_second_identical_fit_computes_no_heatmap(self, pipe, images, passes, tmp_path):
        X, y = images
        pipe.set_params(memory=str(tmp_path)).fit(X, y)
        assert sum(passes) == N_TRIAL + 60
        passes.clear()
        again = clone(pipe).fit(X, y)
        assert passes == []
        assert_array_equal(again["dfr"].coef_, pipe["dfr"].coef_)

    def test_the_same_fit_in_a_new_process_computes_no_heatmap(self, images, tmp_path):
        script = textwrap.dedent(
            f"""
            from skexmap import HeatmapTransformer
            count = 0
            attribute = HeatmapTransformer._attribute
            def counted(self, *args):
                global count
                count += 1
                return attribute(self, *args)
            HeatmapTransformer._attribute = counted
            make_pipe(make_net(), memory={str(tmp_path)!r}).fit(*make_images())
            print(count)
            """
        )
        assert int(output_of_another_process(script)) > 0
        assert int(output_of_another_process(script)) == 0

    def test_other_weights_miss_the_cache(self, pipe, net, images, passes, tmp_path):
        pipe.set_params(memory=str(tmp_path)).fit(*images)
        passes.clear()
        with torch.no_grad():
            net[7].weight.mul_(-1)
        clone(pipe).fit(*images)
        assert sum(passes) >= 60

    def test_in_a_whole_search_over_the_head_every_image_goes_through_the_net_once(
        self, pipe, images, passes, tmp_path
    ):
        X, y = images
        pipe.set_params(heatmaps__memory=str(tmp_path))
        search = GridSearchCV(pipe, {"dfr__C": [1.0, 0.1, 0.01]}, cv=3).fit(X, y)
        # Every fit tries the model on a few images of its own: 3 x 3 candidates and the refit.
        n_fits = 3 * 3 + 1
        assert sum(passes) == 60 + n_fits * N_TRIAL
        passes.clear()
        search.predict(X)
        assert passes == []
        uncached = GridSearchCV(
            clone(pipe).set_params(heatmaps__memory=None), {"dfr__C": [1.0, 0.1, 0.01]}, cv=3
        ).fit(X, y)
        # Without it: all images for each fit and each score, and the refit.
        assert sum(passes) == 60 * 3 * 3 + 60 + n_fits * N_TRIAL
        assert_array_equal(search.cv_results_["mean_test_score"], uncached.cv_results_["mean_test_score"])

    def test_with_both_caches_a_search_fits_the_heatmap_step_once_per_fold(
        self, pipe, images, passes, tmp_path
    ):
        X, y = images
        pipe.set_params(heatmaps__memory=str(tmp_path / "images"), memory=str(tmp_path / "steps"))
        GridSearchCV(pipe, {"dfr__C": [1.0, 0.1, 0.01]}, cv=3).fit(X, y)
        assert sum(passes) == 60 + 4 * N_TRIAL

    def test_transforming_once_and_searching_on_the_blocks_needs_no_cache(self, pipe, images, passes):
        X, y = images
        blocks = pipe[:-1].fit_transform(X, y)
        assert sum(passes) == 60 + N_TRIAL
        passes.clear()
        GridSearchCV(pipe["dfr"], {"C": [1.0, 0.1]}, cv=3).fit(blocks, y)
        assert passes == []

    def test_the_image_cache_tells_weights_settings_and_pixels_apart(self, net, images, passes, tmp_path):
        X, _ = images
        heatmaps = HeatmapTransformer(net, size=4, memory=str(tmp_path)).fit(X)
        heatmaps.transform(X[:10])
        passes.clear()
        heatmaps.transform(X[5:15])
        assert sum(passes) == 5
        passes.clear()
        clone(heatmaps).set_params(size=5).fit(X).transform(X[:10])
        assert sum(passes) == 10 + N_TRIAL
        passes.clear()
        with torch.no_grad():
            net[0].bias.add_(0.1)
        expected = HeatmapTransformer(net, size=4).fit_transform(X[:10])
        passes.clear()
        assert_array_equal(heatmaps.transform(X[:10]), expected)
        assert sum(passes) == 10


class TestWorkers:
    @pytest.mark.parametrize("backend", ["loky", "threading"])
    def test_two_jobs_give_the_scores_of_one(self, backend, pipe, images):
        X, y = images
        expected = cross_val_score(pipe, X, y, cv=3)
        with joblib.parallel_config(backend, n_jobs=2):
            assert_array_equal(cross_val_score(pipe, X, y, cv=3), expected)
            search = GridSearchCV(pipe, {"dfr__C": [1.0, 0.1]}, cv=3).fit(X, y)
        assert_array_equal(
            search.cv_results_["mean_test_score"],
            GridSearchCV(pipe, {"dfr__C": [1.0, 0.1]}, cv=3).fit(X, y).cv_results_["mean_test_score"],
        )

    def test_threads_share_one_replica_of_the_net(self, pipe, net, images):
        X, y = images
        cross_val_score(pipe, X, y, cv=3, n_jobs=1)
        only = replica_of(net, torch.device("cpu"))
        with joblib.parallel_config("threading", n_jobs=2):
            cross_val_score(pipe, X, y, cv=4)
        assert len(_REPLICAS[net]) == 1
        assert replica_of(net, torch.device("cpu")) is only

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_a_worker_process_makes_one_replica_for_all_its_tasks(self, batch_size, pipe, images):
        """Also where the tasks of one batch hold models at the same time, and over two calls after one another."""
        X, y = images
        net = pipe["heatmaps"].model
        with torch.no_grad():
            # A content of its own, which no worker of an earlier test has seen.
            net[0].bias.add_(0.125 * batch_size)
        tasks = [joblib.delayed(fit_and_count_replicas)(clone(pipe), X, y) for _ in range(6)]
        with joblib.parallel_config("loky", n_jobs=2):
            seen = joblib.Parallel(batch_size=batch_size)(tasks) + joblib.Parallel()(tasks)
        made = {}
        for process, n_made, n_alive in seen:
            made[process] = made.get(process, 0) + n_made
            assert n_alive == 1
        assert os.getpid() not in made
        assert set(made.values()) == {1}
        assert len(seen) == 12

    @pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="Linux tells what is mapped")
    def test_worker_processes_map_the_weights_from_one_file(self):
        """And not from one per task: joblib tells arrays by identity."""
        net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(2**12, 256), torch.nn.ReLU(), torch.nn.Linear(256, 2)
        )
        heatmaps = HeatmapTransformer(net)
        with joblib.parallel_config("loky", n_jobs=2):
            seen = joblib.Parallel()(joblib.delayed(look_at_weights)(clone(heatmaps)) for _ in range(6))
        assert {content for content, _ in seen} == {digest(net[1].weight.detach())}
        (file,) = {file for _, file in seen}
        assert file.endswith(".pkl")

    def test_a_read_only_map_is_mapped_again_copy_on_write(self, tmp_path):
        np.save(tmp_path / "w.npy", np.arange(6.0))
        again = writable(np.load(tmp_path / "w.npy", mmap_mode="r"))
        assert isinstance(again, np.memmap)
        again[0] = 7
        assert np.load(tmp_path / "w.npy")[0] == 0
        read_only = np.arange(3)
        read_only.flags.writeable = False
        assert writable(read_only).flags.writeable
        state = TensorState(torch.nn.Parameter(torch.arange(6.0)))
        state.array = np.load(tmp_path / "w.npy", mmap_mode="r")
        with torch.no_grad():
            state.restore().add_(1)
        assert np.load(tmp_path / "w.npy")[0] == 0


def fit_and_count_replicas(pipe, X, y):
    """Return the process, and how many replicas a fit and a prediction made and left alive (a worker's task)."""
    warnings.simplefilter("ignore")
    made = []
    replicate = Replica.__init__

    def counted(self, *args):
        made.append(1)
        replicate(self, *args)

    Replica.__init__ = counted
    try:
        pipe.fit(X, y).predict(X)
    finally:
        Replica.__init__ = replicate
    gc.collect()
    return os.getpid(), len(made), sum(type(thing) is Replica for thing in gc.get_objects())


def digest(weight):
    """Return a digest of the bytes: a sum would depend on where in memory they lie."""
    return hashlib.sha256(weight.numpy().tobytes()).hexdigest()


def look_at_weights(transformer):
    """Return the digest of a weight and the file that its memory is mapped from (a worker's task)."""
    weight = transformer.model[1].weight.detach()
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(address, 16) for address in line.split()[0].split("-"))
            if start <= weight.data_ptr() < end:
                return digest(weight), line.split()[-1]


class TestSameSeedSameAnswer:
    """Labels and coefficients do not depend on threads; on the batch size to 1e-5 of the largest (float32 sums)."""

    def fit(self, net, images, **params):
        pipe = make_pipe(net).set_params(
            clusterer=EigengapSpectralClustering(n_clusters=3, random_state=0), **params
        )
        return pipe.fit(*images)

    @pytest.mark.parametrize("batch_size", [1, 7, 60])
    def test_for_any_batch_size(self, batch_size, net, images):
        one = self.fit(net, images)
        other = self.fit(net, images, heatmaps__batch_size=batch_size)
        assert_array_equal(one["clusterer"].labels_, other["clusterer"].labels_)
        scale = np.abs(one["dfr"].coef_).max()
        assert_allclose(one["dfr"].coef_, other["dfr"].coef_, atol=1e-5 * scale)

    def test_for_any_number_of_jobs(self, net, images):
        one = self.fit(net, images)
        for n_jobs in (2, 3):
            other = self.fit(net, images, dfr__n_jobs=n_jobs, clusterer__n_jobs=n_jobs)
            assert_array_equal(one["clusterer"].labels_, other["clusterer"].labels_)
            assert_array_equal(one["dfr"].coef_, other["dfr"].coef_)

    def test_clusters_are_numbered_by_size_then_first_member(self, net, images):
        labels = self.fit(net, images)["clusterer"].labels_
        values, first, counts = np.unique(labels, return_index=True, return_counts=True)
        assert_array_equal(values, np.lexsort((first, -counts)))
