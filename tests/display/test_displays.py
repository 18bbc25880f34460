import sys
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skexmap.cluster import EigengapSpectralClustering
from skexmap.display import EigengapDisplay, GroupHeatmapDisplay
from skexmap.groups import PseudoGroupLabeler

plt = pytest.importorskip("matplotlib.pyplot")
to_rgba = pytest.importorskip("matplotlib.colors").to_rgba


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def clusterer():
    X, _ = make_blobs([60, 50, 40], n_features=10, random_state=0)
    return EigengapSpectralClustering(n_neighbors=20, max_clusters=6, random_state=0).fit(X)


class TestEigengapDisplay:
    def test_chosen_gap_and_runner_up_are_named_and_drawn_where_they_are(self):
        values = np.array([0.0, 0.01, 0.03, 0.42, 0.44, 0.6, 0.61])
        display = EigengapDisplay(eigenvalues=values, n_clusters=3, runner_up=5).plot()
        chosen, runner_up = (line.get_xydata() for line in display.axes_.lines[1:])
        assert_array_equal(chosen, [(3, 0.03), (4, 0.42)])
        assert_array_equal(runner_up, [(5, 0.44), (6, 0.6)])
        labels = display.axes_.get_legend_handles_labels()[1]
        assert labels == ["chosen: 3 clusters, gap 0.390", "runner-up: 5 clusters, gap 0.160"]

    def test_a_fitted_clusterers_own_choice_and_runner_up_are_shown(self, clusterer):
        # The first gap is skipped: one cluster would split nothing.
        first, second = 2 + np.argsort(-np.diff(clusterer.eigenvalues_)[1:])[:2]
        display = EigengapDisplay.from_estimator(clusterer)
        assert (display.n_clusters, display.runner_up) == (first, second)
        points = display.axes_.lines[0].get_xydata()
        assert_array_equal(points, list(enumerate(clusterer.eigenvalues_, start=1)))

    def test_a_number_of_clusters_without_a_gap_is_shown_alone(self):
        display = EigengapDisplay(eigenvalues=np.array([0.0, 0.1, 0.3]), n_clusters=3).plot()
        assert display.axes_.get_title(loc="left") == "3 clusters"
        assert display.axes_.get_legend() is None

    def test_the_clusterer_is_found_inside_a_labeler_and_a_pipeline(self, clusterer):
        X, _ = make_blobs([60, 50, 40], n_features=10, random_state=0)
        y = np.arange(150) % 2
        labeler = PseudoGroupLabeler(clusterer, merge_alpha=None).fit(X, y)
        pipeline = make_pipeline(PCA(5), PseudoGroupLabeler(clusterer, merge_alpha=None)).fit(X, y)
        search = GridSearchCV(pipeline, {"pca__n_components": [5]}, scoring=lambda *_: 0.0, cv=2).fit(X, y)
        exmap = SimpleNamespace(labeler_=labeler)
        for estimator in (labeler, pipeline, search, exmap):
            assert EigengapDisplay.from_estimator(estimator).n_clusters == labeler.n_clusters_

    def test_clusterers_inside_each_class_are_shown_one_at_a_time(self):
        X, y = make_blobs([60, 60], n_features=4, random_state=0)
        clusterer = EigengapSpectralClustering(n_clusters=2)
        labeler = PseudoGroupLabeler(clusterer, scope="local", merge_alpha=None).fit(X, y)
        with pytest.raises(ValueError, match="PseudoGroupLabeler holds 2 clusterers, one per class"):
            EigengapDisplay.from_estimator(labeler)
        assert EigengapDisplay.from_estimator(labeler.clusterers_[1]).n_clusters == 2

    def test_axes_given_are_drawn_on(self, clusterer):
        figure, ax = plt.subplots()
        display = EigengapDisplay.from_estimator(clusterer, ax=ax)
        assert (display.axes_, display.ax_, display.figure_) == (ax, ax, figure)

    def test_an_estimator_without_eigenvalues_is_refused(self):
        X = np.random.RandomState(0).normal(size=(10, 2))
        with pytest.raises(ValueError, match="KMeans has no eigenvalues"):
            EigengapDisplay.from_estimator(KMeans(2, n_init=1).fit(X))
        with pytest.raises(NotFittedError):
            EigengapDisplay.from_estimator(KMeans(2))


@pytest.fixture
def arrays():
    rng = np.random.RandomState(0)
    return {
        "images": rng.uniform(size=(7, 3, 8, 8)),
        "heatmaps": rng.normal(size=(7, 3, 4, 4)),
        "group_labels": np.array([3, 0, -1, 1, 0, 1, 0]),
        "pseudo_groups": np.array([5, 4, 0, 2, 2, 1, 4]),
    }


class TestGroupHeatmapDisplay:
    def test_each_group_shows_its_first_samples_and_the_pseudo_groups_they_fell_into(self, arrays):
        display = GroupHeatmapDisplay.from_arrays(**arrays, n_examples=2, group_names=["zero", "one"])
        assert_array_equal(display.rows_, [[1, 3, 0], [4, 5, -1]])
        assert [ax.get_title() for ax in display.axes_[0]] == ["zero", "one", "3"]
        labels = [
            [ax.get_xlabel().removeprefix("pseudo-group ") for ax in row] for row in display.axes_[1::2]
        ]
        assert labels == [["4", "2", "5"], ["2", "1", ""]]
        shown = display.axes_[0, 0].images[0].get_array()
        np.testing.assert_allclose(shown, arrays["images"][1].transpose(1, 2, 0))

    def test_relevance_is_scaled_by_its_largest_value_and_zero_is_the_middle_color(self, arrays):
        display = GroupHeatmapDisplay.from_arrays(**arrays)
        overlay = display.axes_[1, 0].images[-1]
        expected = arrays["heatmaps"][1].sum(axis=0)
        np.testing.assert_allclose(overlay.get_array(), expected / np.abs(expected).max())
        assert overlay.get_clim() == (-1, 1)
        middle = np.array(overlay.cmap(overlay.norm(0.0)))
        np.testing.assert_allclose(middle, to_rgba("#f7f7f7"), atol=0.01)
        # The map covers the whole image whatever its side.
        assert overlay.get_extent() == list(display.axes_[0, 0].images[0].get_extent())

    def test_a_heatmap_of_zeros_is_drawn_without_a_warning(self, arrays):
        arrays["heatmaps"][1] = 0
        overlay = GroupHeatmapDisplay.from_arrays(**arrays).axes_[1, 0].images[-1]
        assert_array_equal(overlay.get_array(), np.zeros((4, 4)))

    def test_images_of_every_usual_range_are_shown_between_0_and_1(self, arrays):
        images = arrays.pop("images")
        image = images[1].transpose(1, 2, 0)
        stretched = (image - image.min()) / (image.max() - image.min())
        for given, expected in (
            ((images * 255).round().astype(np.uint8), image),
            ((images - 0.5) / 0.2, stretched),
            (images[:, 0], image[:, :, 0]),
        ):
            shown = GroupHeatmapDisplay.from_arrays(given, **arrays).axes_[0, 0].images[0].get_array()
            np.testing.assert_allclose(shown, expected, atol=0.5 / 255)

    @pytest.mark.parametrize(
        "changed, message",
        [
            ({"pseudo_groups": [0, 1]}, r"one entry per sample, got .*'pseudo_groups': 2"),
            ({"heatmaps": np.zeros((7, 48))}, r"`heatmaps` must have .*got \(7, 48\). Reshape flat heatmaps"),
            ({"images": np.zeros((7, 8, 8, 3))}, "`images` must have 1 or 3 channels, got 8"),
            ({"group_labels": [-1] * 7}, "None of the 7 samples belongs to a group"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, arrays, changed, message):
        with pytest.raises(ValueError, match=message):
            GroupHeatmapDisplay.from_arrays(**{**arrays, **changed})


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    display = EigengapDisplay(eigenvalues=np.zeros(3), n_clusters=2)
    with pytest.raises(ImportError, match=r"EigengapDisplay.plot needs matplotlib.*pip install matplotlib"):
        display.plot()
