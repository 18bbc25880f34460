import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skexmap import ExMapClassifier, HeatmapTransformer, PseudoGroupLabeler, export_model
from skexmap.cluster import EigengapSpectralClustering
from skexmap.display import (
    ClusterMapDisplay,
    EigengapDisplay,
    GroupAccuracyDisplay,
    GroupGalleryDisplay,
    HeatmapDisplay,
)
from skexmap.features import ImageLoader

Image = pytest.importorskip("PIL.Image")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def clusterer():
    X, _ = make_blobs([60, 50, 40], n_features=10, random_state=0)
    return EigengapSpectralClustering(n_neighbors=20, max_clusters=6, random_state=0).fit(X)


@pytest.fixture
def fitted(exmap, images):
    return exmap.fit(*images)


def legend(display):
    return display.ax_.get_legend_handles_labels()[1]


class TestEigengapDisplay:
    def test_chosen_gap_and_runner_up_are_named_and_drawn_where_they_are(self):
        values = np.array([0.0, 0.01, 0.03, 0.42, 0.44, 0.6, 0.61])
        display = EigengapDisplay(eigenvalues=values, n_clusters=3, runner_up=5).plot()
        chosen, runner_up = (line.get_xydata() for line in display.ax_.lines[1:])
        assert_array_equal(chosen, [(3, 0.03), (4, 0.42)])
        assert_array_equal(runner_up, [(5, 0.44), (6, 0.6)])
        assert legend(display) == ["chosen: 3 clusters, gap 0.390", "runner-up: 5 clusters, gap 0.160"]

    def test_a_fitted_clusterers_own_choice_and_runner_up_are_shown(self, clusterer):
        first, second = 2 + np.argsort(-np.diff(clusterer.eigenvalues_)[1:])[:2]
        display = EigengapDisplay.from_estimator(clusterer)
        assert (display.n_clusters, display.runner_up) == (first, second)
        assert_array_equal(display.ax_.lines[0].get_ydata(), clusterer.eigenvalues_)

    def test_a_number_of_clusters_without_a_gap_is_shown_alone_and_many_eigenvalues_have_few_ticks(self):
        display = EigengapDisplay(eigenvalues=np.linspace(0, 1, 100), n_clusters=100).plot()
        assert display.ax_.get_title(loc="left") == "100 clusters"
        assert len(display.ax_.get_xticks()) <= 15
        assert display.ax_.get_legend() is None

    def test_the_clusterer_is_found_inside_a_labeler_a_pipeline_and_a_search(self, clusterer):
        X, _ = make_blobs([60, 50, 40], n_features=10, random_state=0)
        y = np.arange(150) % 2
        labeler = PseudoGroupLabeler(clusterer, merge_alpha=None).fit(X, y)
        pipeline = make_pipeline(PseudoGroupLabeler(clusterer, merge_alpha=None)).fit(X, y)
        search = GridSearchCV(labeler, {"n_seed_checks": [1]}, scoring=lambda *_: 0.0, cv=2).fit(X, y)
        for estimator in (labeler, pipeline, search):
            assert EigengapDisplay.from_estimator(estimator).n_clusters == labeler.n_clusters_

    def test_clusterers_inside_each_class_are_shown_one_at_a_time(self):
        X, y = make_blobs([60, 60], n_features=4, random_state=0)
        clusterer = EigengapSpectralClustering(n_clusters=2)
        labeler = PseudoGroupLabeler(clusterer, scope="local", merge_alpha=None).fit(X, y)
        with pytest.raises(
            ValueError, match="PseudoGroupLabeler has no EigengapSpectralClustering, or one for"
        ):
            EigengapDisplay.from_estimator(labeler)
        assert EigengapDisplay.from_estimator(labeler.clusterers_[1]).n_clusters == 2


class TestHeatmapDisplay:
    def test_signed_maps_are_drawn_on_a_symmetric_scale_divided_by_their_largest_value(self, fitted, images):
        X = images[0][:3]
        maps = HeatmapTransformer(fitted.model, size=4, evidence="signed").fit_transform(X)
        planes = maps.reshape(3, 3, 4, 4).sum(axis=1)
        shown = HeatmapDisplay.from_estimator(fitted, X).ax_.images
        # Three images, and then a pale image and a map of each.
        for plane, image in zip(planes, shown[4::2], strict=True):
            assert_allclose(image.get_array(), plane / np.abs(plane).max(), rtol=1e-4, atol=1e-5)
            assert image.get_clim() == (-1, 1)

    def test_wrong_predictions_are_framed(self, net, images):
        X, y = images
        predicted = np.array(["duck", "swan"])[net(torch.from_numpy(X)).argmax(1)]
        display = HeatmapDisplay.from_estimator(net, X[20:40], y[20:40])
        captions = [text.get_text() for text in display.ax_.texts]
        assert captions[20:] == [f"predicted: {label}" for label in predicted[20:40]]
        assert len(display.ax_.lines) == np.sum(predicted[20:40] != y[20:40]) > 0

    def test_a_second_model_is_shown_beside_the_first(self, fitted, images):
        X, y = (values[:3] for values in images)
        display = HeatmapDisplay.from_estimator(fitted, X, y, after=export_model(fitted))
        titles = [label.get_text() for label in display.ax_.get_xticklabels()]
        assert titles == ["image", "before", "after"]
        assert_array_equal(display.y_pred["after"], fitted.predict(X))

    @pytest.mark.parametrize(
        "image, shown",
        [
            (np.array([[0, 51], [102, 204]], np.uint8), [[0, 0.2], [0.4, 0.8]]),
            (np.array([[0, 0.2], [0.4, 0.5]]), [[0, 0.2], [0.4, 0.5]]),
            (np.array([[-2, 0], [1, 2.0]]), [[0, 0.5], [0.75, 1]]),
        ],
    )
    @pytest.mark.parametrize("n_channels", [1, 3])
    def test_images_of_every_scale_are_shown_from_0_to_1(self, image, shown, n_channels):
        images = np.stack([image] * n_channels)[None]
        display = HeatmapDisplay(images=images, heatmaps={"zeros": np.zeros((1, 1, 2, 2))}).plot()
        drawn = display.ax_.images[0].get_array()
        assert_allclose(drawn, shown if n_channels == 1 else np.stack([shown] * 3, axis=-1))
        # A map of zeros stays one.
        assert_array_equal(display.ax_.images[-1].get_array(), np.zeros((2, 2)))


class TestGroupGalleryDisplay:
    def test_images_are_ranked_by_the_distance_of_their_map_to_the_mean(self):
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
        # It predicts class 0, and the relevance of a pixel is its value.
        net[1].weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
        X = torch.tensor([(5.0, 5.0), (7, 3), (8, 2), (10, 0), (6, 4)]).reshape(5, 1, 1, 2)
        y = [0, 1, 0, 0, 1]
        display = GroupGalleryDisplay.from_estimator(net, X, y, group_labels=["all"] * 5, n_images=1)
        group = display.groups["all"]
        # The mean is (7.2, 2.8). Image 1 is wrong, too, but is already shown.
        assert (group["typical"], group["atypical"], group["wrong"]) == ([1], [3], [4])
        assert (group["size"], group["accuracy"]) == (5, 0.6)

    def test_groups_of_an_estimator_are_its_pseudo_groups(self, fitted, pipe, images):
        X, y = images
        for estimator in (fitted, pipe.fit(X, y)):
            groups = GroupGalleryDisplay.from_estimator(estimator, X, y, class_names={"duck": "Duck"}).groups
            assert list(groups) == [f"{name}, cluster {k}" for name in ("Duck", "swan") for k in (0, 1)]
            sizes = [group["size"] for group in groups.values()]
            assert sizes == np.unique(fitted.group_labels_, return_counts=True)[1].tolist()

    def test_files_are_read(self, tmp_path, exmap, images):
        X, y = images
        paths = [str(tmp_path / f"{i}.jpg") for i in range(len(X))]
        for path, image in zip(paths, X, strict=True):
            Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)).save(path)
        display = GroupGalleryDisplay.from_estimator(exmap.fit(paths, y), paths, y, n_images=5)
        assert len(display.images) >= 20
        for index, image in display.images.items():
            assert_array_equal(image, ImageLoader()(paths[index]))


class TestClusterMapDisplay:
    def test_points_are_colored_by_class_and_cluster_or_by_group(self, fitted, images):
        X, y = images
        sizes = np.unique(fitted.group_labels_, return_counts=True)[1]
        names = [f"{name}, cluster {k}" for name in ("duck", "swan") for k in (0, 1)]
        figure, ax = plt.subplots()
        display = ClusterMapDisplay.from_estimator(fitted, X, y, ax=ax)
        assert (display.ax_, display.figure_) == (ax, figure)
        assert legend(display) == [f"{name} ({n})" for name, n in zip(names, sizes, strict=True)]
        right = np.where(np.arange(60) < 20, "right", "wrong")
        display = ClusterMapDisplay.from_estimator(fitted, X, y, group_labels=right)
        assert legend(display) == ["right (20)", "wrong (40)"]
        for part, label in zip(display.ax_.collections, ("right", "wrong"), strict=True):
            assert_array_equal(part.get_offsets(), display.points[right == label])

    def test_tsne_separates_two_far_blobs_in_a_sample_of_1000(self):
        X, y = make_blobs([600, 500], n_features=60, center_box=(-90, 90), random_state=0)
        display = ClusterMapDisplay.from_predictions(X, group_labels=np.where(y == 0, -1, 3))
        assert len(display.points) == 1000
        found = KMeans(2, n_init=3, random_state=0).fit_predict(display.points)
        assert found[display.group_labels == 3].std() == 0
        assert [name.rpartition(" ")[0] for name in legend(display)] == ["no group", "group 3"]

    def test_points_of_a_circle_keep_their_order_in_the_spectral_embedding(self):
        angles = np.sort(np.random.default_rng(0).uniform(0, 2 * np.pi, size=600))
        X = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(600)])
        points = ClusterMapDisplay.from_predictions(X, group_labels=[0] * 600, method="spectral").points
        found = np.unwrap(np.arctan2(points[:, 1], points[:, 0]))
        assert abs(np.corrcoef(angles, found)[0, 1]) > 0.98

    def test_an_unknown_method_and_missing_umap_are_refused(self, monkeypatch):
        with pytest.raises(ValueError, match=r"`method` must be one of .*'spectral', 'tsne', 'umap'"):
            ClusterMapDisplay.from_predictions(np.zeros((4, 3)), group_labels=[0] * 4, method="pca")
        with pytest.raises(ValueError, match="needs at least 4 heatmaps, got 3"):
            ClusterMapDisplay.from_predictions(np.eye(3), group_labels=[0] * 3, method="spectral")
        monkeypatch.setitem(sys.modules, "umap", None)
        with pytest.raises(ImportError, match=r"skexmap\[umap\]"):
            ClusterMapDisplay.from_predictions(np.zeros((4, 3)), group_labels=[0] * 4, method="umap")


def test_bars_are_accuracies_and_the_worst_group_of_each_model_is_marked():
    predictions = {"as trained": [0, 1, 1, 1], "repaired": [0, 0, 0, 0]}
    display = GroupAccuracyDisplay.from_predictions([0, 0, 1, 1], predictions, group_labels=list("llww"))
    assert [bar.get_width() for bar in display.ax_.patches] == [0.5, 1, 1, 0]
    worst = {text.get_text(): round(text.get_position()[1], 1) for text in display.ax_.texts}
    assert worst == {"worst: 0.50": -0.2, "worst: 0.00": 1.2}
    with pytest.raises(ValueError, match="`y_true` has 2 entries, `y_pred` has 1"):
        GroupAccuracyDisplay.from_predictions([0, 1], {"net": [0]}, group_labels=[0, 0])


@pytest.mark.parametrize("display", [HeatmapDisplay, GroupGalleryDisplay, ClusterMapDisplay])
def test_what_an_estimator_or_data_lack_is_named(display, fitted, images):
    X, y = images
    with pytest.raises(NotFittedError):
        display.from_estimator(ExMapClassifier(fitted.model), X, y)
    with pytest.raises(ValueError, match="KMeans has no heatmaps"):
        display.from_estimator(KMeans(2).fit(X.reshape(60, -1)), X, y)
    with pytest.raises(ValueError, match="`y` has 3 entries for 60 images"):
        display.from_estimator(fitted, X, y[:3])
    lack = r"a row of X has the shape \(3,\)" if display is HeatmapDisplay else "Linear has no clusters"
    with pytest.raises(ValueError, match=lack):
        display.from_estimator(torch.nn.Linear(3, 2), torch.rand(4, 3), [0, 1, 0, 1])


def long_names(codes):
    return np.array([f"a $very$ long name of a group and its number {code} " * 2 for code in codes])


@pytest.mark.parametrize("shown", ["heatmaps", "gallery", "map", "accuracies", "eigenvalues"])
def test_all_text_stays_inside_the_figure(shown, net, images):
    X, y, names = images[0], np.arange(60) % 2, long_names(np.arange(60) % 20)
    if shown == "heatmaps":
        display = HeatmapDisplay.from_estimator(net, X[:4], y[:4], class_names=long_names([0, 1]))
    elif shown == "gallery":
        display = GroupGalleryDisplay.from_estimator(net, X, y, group_labels=names)
    elif shown == "map":
        display = ClusterMapDisplay(points=X[:, 0, 0, :2], group_labels=names).plot()
    elif shown == "accuracies":
        models = {names[0]: y, "other": 1 - y}
        display = GroupAccuracyDisplay.from_predictions(y, models, group_labels=names)
    else:
        display = EigengapDisplay(eigenvalues=np.linspace(0, 0.001, 40), n_clusters=3, runner_up=38).plot()
    display.figure_.draw_without_rendering()
    box, page = display.figure_.get_tightbbox(), display.figure_.get_size_inches()
    assert min(box.x0, box.y0, *(page - box.max)) > 0.02


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"Displays need matplotlib.*skexmap\[plot\]"):
        EigengapDisplay(eigenvalues=np.zeros(3), n_clusters=2).plot()


def test_displays_and_the_report_are_imported_when_they_are_first_used():
    script = (
        "import sys, skexmap\n"
        "assert 'skexmap.display' not in sys.modules and 'matplotlib' not in sys.modules\n"
        "assert skexmap.display.HeatmapDisplay.__name__ == 'HeatmapDisplay'\n"
        "assert 'skexmap.report' not in sys.modules and skexmap.report.ShortcutReport\n"
        "assert 'matplotlib' not in sys.modules and not hasattr(skexmap, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
