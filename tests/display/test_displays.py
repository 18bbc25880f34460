import subprocess
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

from skexmap import export_model
from skexmap.cluster import EigengapSpectralClustering
from skexmap.display import (
    ClusterMapDisplay,
    EigengapDisplay,
    GroupAccuracyDisplay,
    GroupGalleryDisplay,
    HeatmapDisplay,
)
from skexmap.groups import PseudoGroupLabeler

plt = pytest.importorskip("matplotlib.pyplot")


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
        chosen, runner_up = (line.get_xydata() for line in display.ax_.lines[1:])
        assert_array_equal(chosen, [(3, 0.03), (4, 0.42)])
        assert_array_equal(runner_up, [(5, 0.44), (6, 0.6)])
        labels = display.ax_.get_legend_handles_labels()[1]
        assert labels == ["chosen: 3 clusters, gap 0.390", "runner-up: 5 clusters, gap 0.160"]

    def test_a_fitted_clusterers_own_choice_and_runner_up_are_shown(self, clusterer):
        # The first gap is skipped: one cluster would split nothing.
        first, second = 2 + np.argsort(-np.diff(clusterer.eigenvalues_)[1:])[:2]
        display = EigengapDisplay.from_estimator(clusterer)
        assert (display.n_clusters, display.runner_up) == (first, second)
        points = display.ax_.lines[0].get_xydata()
        assert_array_equal(points, list(enumerate(clusterer.eigenvalues_, start=1)))

    def test_a_number_of_clusters_without_a_gap_is_shown_alone(self):
        display = EigengapDisplay(eigenvalues=np.array([0.0, 0.1, 0.3]), n_clusters=3).plot()
        assert display.ax_.get_title(loc="left") == "3 clusters"
        assert display.ax_.get_legend() is None

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
        assert (display.ax_, display.figure_) == (ax, figure)

    def test_an_estimator_without_eigenvalues_is_refused(self):
        X = np.random.RandomState(0).normal(size=(10, 2))
        with pytest.raises(ValueError, match="KMeans has no `eigenvalues_`"):
            EigengapDisplay.from_estimator(KMeans(2, n_init=1).fit(X))
        with pytest.raises(NotFittedError):
            EigengapDisplay.from_estimator(KMeans(2))


@pytest.fixture
def arrays():
    rng = np.random.RandomState(0)
    return {
        "X": rng.uniform(size=(8, 3, 8, 8)),
        "heatmaps": rng.normal(size=(8, 3, 4, 4)),
        "y_true": np.repeat(["duck", "swan"], 4),
        "y_pred": np.array(["duck"] * 6 + ["swan"] * 2),
    }


def texts(display):
    return [text.get_text() for text in display.ax_.texts]


class TestHeatmapDisplay:
    def test_each_map_is_divided_by_its_largest_value_on_a_symmetric_scale(self, arrays):
        shown = HeatmapDisplay.from_predictions(**arrays).ax_.images
        planes = arrays["heatmaps"].sum(axis=1)
        # Image, then for each sample a gray image, an overlay and a map.
        maps = list(shown)[10::3]
        for plane, image in zip(planes, maps, strict=True):
            np.testing.assert_allclose(image.get_array(), plane / np.abs(plane).max())
            assert image.get_clim() == (-1, 1)

    def test_maps_without_negative_values_have_a_sequential_scale(self, arrays):
        arrays["heatmaps"] = np.abs(arrays["heatmaps"])
        assert HeatmapDisplay.from_predictions(**arrays).ax_.images[-1].get_clim() == (0, 1)

    def test_wrong_predictions_are_framed(self, arrays):
        display = HeatmapDisplay.from_predictions(**arrays)
        assert texts(display) == ["predicted: duck"] * 6 + ["predicted: swan"] * 2
        assert len(display.ax_.lines) == 2

    def test_a_second_model_is_shown_beside_the_first(self, exmap, images):
        X, y = images
        exmap.fit(X, y)
        display = HeatmapDisplay.from_estimator(exmap, X[:3], y[:3], model_after=export_model(exmap))
        assert [label.get_text() for label in display.ax_.get_xticklabels()][3:] == [
            "after: overlay",
            "after: heatmap",
        ]
        assert_array_equal(display.y_pred_after, exmap.predict(X[:3]))


class TestGroupGalleryDisplay:
    def test_images_are_ranked_by_the_distance_of_their_map_to_the_mean(self):
        maps = np.zeros((5, 1, 1, 2))
        maps[:, 0, 0] = [(5, 5), (6, 4), (4, 6), (9, 1), (3, 7)]
        display = GroupGalleryDisplay.from_predictions(
            np.zeros((5, 1, 2, 2)), maps, [0] * 5, [0, 0, 0, 0, 1], cluster_labels=[0] * 5, n_examples=1
        )
        (group,) = display.groups
        # The mean is (5.4, 4.6).
        assert (group["typical"], group["atypical"], group["wrong"]) == ([0], [3], [4])
        assert (group["size"], group["accuracy"]) == (5, 0.8)

    def test_groups_of_an_estimator_are_its_pseudo_groups(self, exmap, pipe, images):
        X, y = images
        labels = exmap.fit(X, y).group_labels_
        for estimator in (exmap, pipe.fit(X, y)):
            sizes = [g["size"] for g in GroupGalleryDisplay.from_estimator(estimator, X, y).groups]
            assert sizes == np.unique(labels, return_counts=True)[1].tolist()

    def test_images_are_read_from_what_load_accepts(self, arrays):
        stored = arrays["X"]
        options = {"cluster_labels": [0] * 8, "load": lambda i: stored[i]}
        display = GroupGalleryDisplay.from_predictions(**{**arrays, "X": np.arange(8)}, **options)
        for index, image in display.images.items():
            np.testing.assert_allclose(image, stored[index], rtol=1e-6)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"heatmaps": np.zeros((8, 48))}, r"got \(8, 48\). Reshape flat ones"),
        ({"heatmaps": np.zeros((3, 3, 4, 4))}, "has 3 maps for 8 images"),
        ({"heatmaps": np.full((8, 4, 4), np.nan)}, "NaN"),
        ({"X": np.zeros((8, 48))}, "Displays show images of shape"),
        ({"y_pred": ["duck"]}, "1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, changed, message):
    with pytest.raises(ValueError, match=message):
        HeatmapDisplay.from_predictions(**{**arrays, **changed})
    with pytest.raises(ValueError, match=message):
        GroupGalleryDisplay.from_predictions(**{**arrays, **changed}, cluster_labels=[0] * 8)


class TestClusterMapDisplay:
    def test_spectral_points_of_a_connected_graph_are_eigenvectors(self, clusterer):
        points = ClusterMapDisplay.from_estimator(clusterer).points
        A = clusterer.affinity_matrix_.toarray()
        np.fill_diagonal(A, 0)
        for value, v in zip(clusterer.eigenvalues_[1:3], points.T, strict=True):
            np.testing.assert_allclose(A.sum(1) * v - A @ v, value * A.sum(1) * v, atol=1e-6)

    def test_coordinates_that_are_given_are_drawn_by_label(self):
        points = np.arange(8.0).reshape(4, 2)
        display = ClusterMapDisplay.from_predictions(points, ["a", "b", "a", "b"], method="precomputed")
        drawn = [collection.get_offsets() for collection in display.ax_.collections]
        assert_array_equal(drawn, [points[::2], points[1::2]])

    def test_tsne_separates_two_far_blobs(self):
        X, y = make_blobs([20, 20], n_features=60, center_box=(-90, 90), random_state=0)
        points = ClusterMapDisplay.from_predictions(X, y).points
        assert KMeans(2, n_init=3, random_state=0).fit_predict(points)[y == 0].std() == 0

    def test_wrong_arguments_are_refused(self, monkeypatch):
        X = np.zeros((4, 3))
        with pytest.raises(ValueError, match="`method` must be"):
            ClusterMapDisplay.from_predictions(X, [0] * 4, method="pca")
        with pytest.raises(ValueError, match=r"must have shape \(n_samples, 2\)"):
            ClusterMapDisplay.from_predictions(X, [0] * 4, method="precomputed")
        monkeypatch.setitem(sys.modules, "umap", None)
        with pytest.raises(ImportError, match=r"skexmap\[umap\]"):
            ClusterMapDisplay.from_predictions(X, [0] * 4, method="umap")


class TestGroupAccuracyDisplay:
    def test_bars_are_accuracies_and_the_worst_group_of_each_model_is_named(self):
        display = GroupAccuracyDisplay.from_predictions(
            [0, 0, 1, 1], {"a": [0, 1, 1, 1], "b": [0, 0, 0, 0]}, group_labels=[0, 0, 1, 1]
        )
        assert [bar.get_width() for bar in display.ax_.patches] == [0.5, 1, 1, 0]
        assert texts(display) == ["worst: 0.50", "worst: 0.00"]
        with pytest.raises(ValueError, match="no model"):
            GroupAccuracyDisplay.from_predictions([0], {}, group_labels=[0])

    @pytest.mark.parametrize("n_groups", [2, 20])
    def test_long_names_stay_inside_the_figure(self, n_groups):
        y = np.repeat(np.arange(n_groups), 3)
        names = [f"a $very$ long name of a group, number {i}" * 3 for i in range(n_groups)]
        models = {"a model with a long name " * 4: y, "other": y}
        accuracy = GroupAccuracyDisplay.from_predictions(y, models, group_labels=y, group_names=names)
        points = np.random.RandomState(0).normal(size=(len(y), 2))
        clusters = ClusterMapDisplay.from_predictions(points, y, names=names, method="precomputed")
        for figure in (accuracy.figure_, clusters.figure_):
            figure.draw_without_rendering()
            box, page = figure.get_tightbbox(), figure.get_size_inches()
            assert min(box.x0, box.y0) > -0.05
            assert box.x1 < page[0] + 0.05
            assert box.y1 < page[1] + 0.05


def test_axes_of_another_type_are_refused():
    with pytest.raises(TypeError, match="`ax` is of type ndarray"):
        EigengapDisplay(eigenvalues=np.zeros(3), n_clusters=2).plot(ax=plt.subplots(2)[1])


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    display = EigengapDisplay(eigenvalues=np.zeros(3), n_clusters=2)
    with pytest.raises(ImportError, match=r"EigengapDisplay.plot needs matplotlib.*skexmap\[plot\]"):
        display.plot()


def test_displays_are_imported_when_they_are_first_used():
    script = (
        "import sys, skexmap\n"
        "assert 'skexmap.display' not in sys.modules and 'matplotlib' not in sys.modules\n"
        "assert skexmap.display.HeatmapDisplay.__name__ == 'HeatmapDisplay'\n"
        "assert 'matplotlib' not in sys.modules and not hasattr(skexmap, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
