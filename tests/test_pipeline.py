"""The pipeline of three steps inside scikit-learn: copies, caches, workers and equal results."""

import copy
import pickle

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

from skexmap import EigengapSpectralClustering
from skexmap._torch import TensorState
from skexmap.features._base import N_TRIAL_IMAGES as N_TRIAL

pytestmark = pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")

GRID = {"dfr__C": [1.0, 0.1, 0.01]}


# With merging the labeler misses the predictions, and without it DFR misses the embedding.
@pytest.mark.parametrize("merge_alpha", [0.05, None])
def test_an_error_names_the_missing_return_embedding(merge_alpha, pipe, images):
    pipe.set_params(heatmaps__return_embedding=False, clusterer__merge_alpha=merge_alpha)
    with pytest.raises(ValueError, match="return_embedding=True"):
        pipe.fit(*images)


class TestCopies:
    @pytest.mark.parametrize(
        "copied_by", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"]
    )
    def test_a_copied_pipeline_predicts_the_same_and_has_a_net_of_its_own(self, copied_by, pipe, images):
        X, y = images
        expected = pipe.fit(X, y).decision_function(X)
        copied = copied_by(pipe)
        assert_array_equal(copied.decision_function(X), expected)
        with torch.no_grad():
            copied["heatmaps"].model[0].weight.zero_()
        assert_array_equal(pipe.decision_function(X), expected)

    def test_clones_and_shallow_copies_share_the_net(self, pipe, exmap, net):
        assert clone(pipe)["heatmaps"].model is net
        assert copy.copy(pipe["heatmaps"]).model is net
        exmap.set_params(heatmaps__model=net)
        assert clone(exmap).model is clone(exmap).heatmaps.model is net

    def test_a_pickled_exmap_classifier_holds_the_weights_once(self, exmap, images):
        net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(300, 500), torch.nn.ReLU(), torch.nn.Linear(500, 2)
        )
        exmap.set_params(model=net, heatmaps__model=net).fit(*images)
        del exmap.embeddings_
        pickled = pickle.dumps(exmap)
        size = sum(values.numel() for values in net.parameters()) * 4
        assert size < len(pickled) < 1.3 * size
        loaded = pickle.loads(pickled)
        assert loaded.model[1].weight is loaded.transformer_.model[1].weight


class TestMemory:
    def test_a_second_identical_fit_computes_no_heatmap(self, pipe, images, passes, tmp_path):
        pipe.set_params(memory=str(tmp_path)).fit(*images)
        assert sum(passes) == 60 + N_TRIAL
        passes.clear()
        again = clone(pipe).fit(*images)
        assert passes == []
        assert_array_equal(again["dfr"].coef_, pipe["dfr"].coef_)

    # Three candidates are fitted on each of three folds, and the best once more on all images. Every fit of the heatmap
    # step tries the model on a few images. Without a cache, each candidate computes the heatmaps of every fold again.
    @pytest.mark.parametrize(
        "caches, n_images, n_fits",
        [
            ([], 60 * 3 * 3 + 60, 3 * 3 + 1),
            (["heatmaps__cache"], 60, 3 * 3 + 1),
            (["heatmaps__cache", "memory"], 60, 3 + 1),
        ],
    )
    def test_a_search_over_the_head_computes_as_many_heatmaps_as_documented(
        self, caches, n_images, n_fits, pipe, images, passes, tmp_path
    ):
        expected = GridSearchCV(clone(pipe), GRID, cv=3).fit(*images).cv_results_["mean_test_score"]
        passes.clear()
        pipe.set_params(**{name: str(tmp_path / name) for name in caches})
        search = GridSearchCV(pipe, GRID, cv=3).fit(*images)
        assert sum(passes) == n_images + n_fits * N_TRIAL
        assert_array_equal(search.cv_results_["mean_test_score"], expected)
        passes.clear()
        search.predict(images[0])
        assert sum(passes) == (0 if caches else 60)


class TestEqualResults:
    @pytest.fixture(autouse=True)
    def three_clusters(self, pipe):
        pipe.set_params(clusterer=EigengapSpectralClustering(n_clusters=3, random_state=0))

    @pytest.mark.parametrize("batch_size", [1, 7, 60])
    def test_the_batch_size_changes_no_label_and_no_coefficient_by_more_than_1e_5_of_the_largest(
        self, batch_size, pipe, images
    ):
        other = clone(pipe).set_params(heatmaps__batch_size=batch_size).fit(*images)
        pipe.fit(*images)
        assert_array_equal(other["clusterer"].labels_, pipe["clusterer"].labels_)
        scale = np.abs(pipe["dfr"].coef_).max()
        assert_allclose(other["dfr"].coef_, pipe["dfr"].coef_, atol=1e-5 * scale)

    @pytest.mark.parametrize("n_jobs", [2, 3])
    def test_the_number_of_jobs_changes_nothing(self, n_jobs, pipe, images):
        other = clone(pipe).set_params(dfr__n_jobs=n_jobs, clusterer__n_jobs=n_jobs).fit(*images)
        pipe.fit(*images)
        assert_array_equal(other["clusterer"].labels_, pipe["clusterer"].labels_)
        assert_array_equal(other["dfr"].coef_, pipe["dfr"].coef_)


class TestWorkers:
    @pytest.mark.parametrize("backend", ["loky", "threading"])
    def test_two_jobs_give_the_scores_of_one(self, backend, pipe, images):
        X, y = images
        expected = cross_val_score(pipe, X, y, cv=3)
        with joblib.parallel_config(backend, n_jobs=2):
            assert_array_equal(cross_val_score(pipe, X, y, cv=3), expected)

    def test_all_tasks_pickle_the_same_array(self, pipe):
        # joblib identifies arrays by their identity, and writes each one to disk once.
        first, second = (clone(pipe)["heatmaps"].__getstate__()["model"][0] for _ in range(2))
        assert first.weight.array is second.weight.array

    def test_a_weight_restored_from_a_read_only_map_can_be_changed_without_changing_the_file(self, tmp_path):
        np.save(tmp_path / "w.npy", np.arange(6.0))
        state = TensorState(torch.nn.Parameter(torch.arange(6.0)))
        state.array = np.load(tmp_path / "w.npy", mmap_mode="r")
        with torch.no_grad():
            state.restore().add_(1)
        assert np.load(tmp_path / "w.npy")[0] == 0
