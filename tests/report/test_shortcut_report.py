import copy
import csv
import io
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import fisher_exact
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from skexmap import (
    DFRClassifier,
    EigengapSpectralClustering,
    ExMapClassifier,
    HeatmapTransformer,
    PseudoGroupLabeler,
)
from skexmap.exceptions import ClusteringWarning
from skexmap.report import ShortcutReport
from skexmap.retraining import EIILLabeler


def rows_by_group(report):
    return {(row["class"], row["cluster"]): row for row in report.rows}


class TestVerdict:
    def test_the_first_line_names_the_corner_and_the_class_of_a_shortcut(self, report):
        first = str(report).splitlines()[0]
        assert first == "Likely a shortcut: the bottom right corner, for 'coat' (cluster 0)."
        assert report.verdict == "likely a shortcut"

    def test_the_class_that_a_shortcut_helps_and_the_class_that_it_hurts_stand_together(self, report):
        helped, hurt = sorted(report.rows[:2], key=lambda row: -row["net_gap"])
        assert helped["cluster"] == hurt["cluster"] == 0
        assert (helped["class"], hurt["class"]) == ("coat", "pullover")
        assert helped["verdict"] == hurt["verdict"] == "likely a shortcut"
        assert len(report.findings) == 1
        right = "the network is right on {} images in the cluster and on "
        assert f"Among 'coat', {right.format('100% of the 141')}" in report.findings[0]
        assert f"Among 'pullover', {right.format('0% of the 30')}" in report.findings[0]

    def test_a_net_that_does_not_lean_on_the_mark_has_nothing_to_see(
        self, make_images, make_net, fit_classifier
    ):
        X, y, _ = make_images(300)
        with pytest.warns(ClusteringWarning):
            classifier = fit_classifier(make_net(leans=False), X, y)
        report = ShortcutReport.from_estimator(classifier, X, y)
        assert report.verdict == "nothing to see here"
        assert str(report).startswith("Nothing to see here: no cluster is a likely shortcut.")

    def test_few_images_are_not_enough_to_tell(self, make_images, make_net, fit_classifier):
        X, y, _ = make_images(16)
        with pytest.warns(ClusteringWarning):
            classifier = fit_classifier(make_net(leans=True), X, y)
        report = ShortcutReport.from_estimator(classifier, X, y)
        assert report.verdict == "not enough images to tell"
        assert str(report).startswith("Not enough images to tell.")


class TestRows:
    def test_accuracies_intervals_gaps_and_tests_are_those_of_the_frozen_net(self, marked, report):
        right = (
            marked.classifier.classes_[marked.net(torch.from_numpy(marked.X)).argmax(1).numpy()] == marked.y
        )
        clusters = marked.classifier.cluster_labels_
        assert len(report.rows) == 4
        for (name, cluster), row in rows_by_group(report).items():
            inside = right[(marked.y == name) & (clusters == cluster)]
            outside = right[(marked.y == name) & (clusters != cluster)]
            assert (row["size"], row["size_outside"]) == (len(inside), len(outside))
            assert_allclose(row["net_gap"], inside.mean() - outside.mean())
            table = [[part.sum(), (~part).sum()] for part in (inside, outside)]
            assert_allclose(row["p_value"], min(1, 4 * fisher_exact(table).pvalue))
            z, n, rate = 1.959964, len(inside), inside.mean()
            for end in (row["net_lower"], row["net_upper"]):
                # Wilson's ends solve (p - rate)^2 = z^2 p (1 - p) / n.
                assert_allclose((end - rate) ** 2, z**2 * end * (1 - end) / n, atol=1e-6)

    def test_the_score_is_dependence_times_concentration_times_exchange(self, report):
        for row in report.rows:
            effect = np.nan_to_num(row["exchanged"] - row["exchanged_control"])
            expected = row["dependence"] * row["concentration"] * max(effect, 0)
            assert_allclose(row["score"], min(1, expected))
            assert_allclose(
                row["concentration"], (row["share"] - row["share_outside"]) / np.sqrt(row["area"])
            )
        top = report.rows[0]
        gaps = [row["net_gap"] for row in report.rows if row["cluster"] == top["cluster"]]
        assert_allclose(top["dependence"], (max(gaps) - min(gaps)) / 2)

    def test_the_place_is_where_the_mark_is(self, report):
        row = report.rows[0]
        assert row["place"] == "bottom right corner"
        assert row["area"] < 0.05
        assert row["center_x"] > 0.8
        assert row["center_y"] > 0.8

    def test_group_labels_add_two_columns_and_change_nothing_else(self, marked, report):
        known = ShortcutReport.from_estimator(
            marked.classifier, marked.X, marked.y, group_labels=np.char.add(marked.y, marked.mark.astype(str))
        )
        for row, row_without in zip(known.rows, report.rows, strict=True):
            assert {name: row[name] for name in row_without} == pytest.approx(row_without, nan_ok=True)
            assert set(row) - set(row_without) == {"true_group", "purity"}
        assert known.rows[0]["true_group"] == f"{known.rows[0]['class']}1"
        mark = marked.mark[(marked.y == "coat") & (marked.classifier.cluster_labels_ == 0)]
        assert rows_by_group(known)["coat", 0]["purity"] == pytest.approx(mark.mean())

    def test_images_of_no_group_are_left_out_of_the_purity(self, marked):
        groups = np.where(marked.classifier.cluster_labels_ == 1, "-1", marked.mark.astype(str))
        groups[marked.mark == 0] = "-1"
        known = ShortcutReport.from_estimator(
            marked.classifier, marked.X, marked.y, group_labels=groups, n_resamples=0
        )
        rows = rows_by_group(known)
        assert (rows["coat", 0]["true_group"], rows["coat", 0]["purity"]) == ("1", 1)
        assert rows["coat", 1]["true_group"] is None
        assert np.isnan(rows["coat", 1]["purity"])


class Memory(ClassifierMixin, BaseEstimator):
    """Knows the class of every embedding that it was fitted on, and is wrong about every other."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.known_ = {row.tobytes(): label for row, label in zip(X["embedding"], y, strict=True)}
        return self

    def predict(self, X):
        rows = X["embedding"] if X.dtype.names else X
        return np.array([self.known_.get(row.tobytes(), "unknown") for row in rows])


class TestRetrained:
    def test_the_retrained_layer_is_never_measured_on_what_it_was_fitted_on(self, marked, fit_classifier):
        classifier = fit_classifier(marked.net, marked.X, marked.y, strategy=Memory())
        report = ShortcutReport.from_estimator(classifier, marked.X, marked.y)
        assert [row["retrained_accuracy"] for row in report.rows] == [0.0] * 4
        assert report.retrained_on == "cross-fitted in 5 folds"
        assert "cross-fitted in 5 folds" in str(report)

    def test_more_folds_than_images_leave_one_image_out_each(self, marked, fit_classifier, monkeypatch):
        folds = []

        def predicted(strategy, X, y, cv):
            folds.append(cv.get_n_splits())
            return y

        monkeypatch.setattr("skexmap.report._read.cross_val_predict", predicted)
        report = ShortcutReport.from_estimator(
            marked.classifier, marked.X, marked.y, n_folds=1000, n_resamples=0
        )
        assert folds == [300]
        assert report.retrained_on == "cross-fitted in 300 folds"

    def test_test_images_are_predicted_by_the_fitted_layer(self, marked, make_images):
        X, y, _ = make_images(80, seed=5)
        report = ShortcutReport.from_estimator(marked.classifier, marked.X, marked.y, X_test=X, y_test=y)
        groups = marked.classifier.predict_groups(X, y)
        right = marked.classifier.predict(X) == y
        for (name, cluster), row in rows_by_group(report).items():
            own = right[groups == 2 * (name == "pullover") + cluster]
            assert row["retrained_size"] == len(own)
            assert_allclose(row["retrained_accuracy"], own.mean() if len(own) else np.nan)
        assert report.retrained_on == "on 80 test images"

    def test_test_images_of_a_dropped_cluster_do_not_count(self, marked, make_images, fit_classifier):
        X, y, _ = make_images(80, seed=5)
        classifier = fit_classifier(marked.net, marked.X, marked.y)
        n_left = np.sum(
            classifier.labeler_.drop(1).predict_groups(classifier.transformer_.transform(X), y) >= 0
        )
        report = ShortcutReport.from_estimator(
            classifier, marked.X, marked.y, X_test=X, y_test=y, n_resamples=0
        )
        assert n_left < 80
        assert report.retrained_on == f"on {n_left} test images"

    def test_a_layer_that_cannot_be_cross_fitted_is_reported_as_unknown(self, marked, fit_classifier):
        # The two largest groups have 141 and 120 images, and a fold leaves four fifths of them.
        strategy = DFRClassifier(n_retrains=2, min_group_size=120, random_state=0)
        classifier = fit_classifier(marked.net, marked.X, marked.y, strategy=strategy)
        report = ShortcutReport.from_estimator(classifier, marked.X, marked.y)
        assert np.isnan([row["retrained_accuracy"] for row in report.rows]).all()
        assert report.retrained_on.startswith("nowhere, because cross-fitting failed")


class TestEstimators:
    @pytest.fixture
    def pipeline(self, marked):
        steps = [
            ("heatmaps", HeatmapTransformer(marked.net, size=14, return_embedding=True)),
            ("clusterer", PseudoGroupLabeler(KMeans(2, n_init=3, random_state=0))),
            ("dfr", DFRClassifier(n_retrains=3, min_group_size=1, random_state=0)),
        ]
        return Pipeline(steps)

    def test_a_pipeline_and_a_search_over_it_give_the_same_report(self, marked, report, pipeline):
        fitted = pipeline.fit(marked.X, marked.y)
        assert str(ShortcutReport.from_estimator(fitted, marked.X, marked.y)) == str(report)
        search = GridSearchCV(pipeline, {"dfr__n_retrains": [3]}, cv=2).fit(marked.X, marked.y)
        assert str(ShortcutReport.from_estimator(search, marked.X, marked.y)) == str(report)

    def test_a_bare_clusterer_may_be_the_second_step(self, marked, pipeline):
        pipeline = Pipeline(
            [*pipeline.steps[:1], ("c", EigengapSpectralClustering(3, n_neighbors=30)), *pipeline.steps[2:]]
        )
        report = ShortcutReport.from_estimator(pipeline.fit(marked.X, marked.y), marked.X, marked.y)
        assert report.rows[0]["place"] == "bottom right corner"

    def test_clusters_inside_each_class_are_distinguished(self, marked, fit_classifier):
        classifier = fit_classifier(marked.net, marked.X, marked.y, scope="local")
        report = ShortcutReport.from_estimator(classifier, marked.X, marked.y)
        sizes = {key: row["size"] for key, row in rows_by_group(report).items()}
        assert sizes == {("coat", 0): 141, ("coat", 1): 9, ("pullover", 0): 120, ("pullover", 1): 30}
        assert report.verdict == "likely a shortcut"

    def test_clusters_of_embeddings_keep_the_classes_that_were_given_for_the_logits(
        self, marked, fit_classifier
    ):
        net = copy.deepcopy(marked.net)
        with torch.no_grad():
            net[3].weight.copy_(marked.net[3].weight.flip(0))
            net[3].bias.copy_(marked.net[3].bias.flip(0))
        labeler = PseudoGroupLabeler(
            KMeans(2, n_init=3, random_state=0), block="embedding", scope="local", merge_alpha=None
        )
        classifier = fit_classifier(net, marked.X, marked.y, clusterer=labeler, classes=["pullover", "coat"])
        rows = ShortcutReport.from_estimator(classifier, marked.X, marked.y).rows
        n_right = sum(row["size"] * row["net_accuracy"] for row in rows)
        assert n_right / len(marked.y) == pytest.approx(classifier.transformer_.model_accuracy_)

    def test_environments_of_embeddings_are_reported_with_heatmaps(self, marked, fit_classifier):
        with pytest.warns(ClusteringWarning):
            classifier = fit_classifier(marked.net, marked.X, marked.y, clusterer=EIILLabeler())
        report = ShortcutReport.from_estimator(classifier, marked.X, marked.y)
        assert sum(row["size"] for row in report.rows) == len(marked.y)

    def test_kept_heatmaps_are_not_computed_again(self, marked, report, monkeypatch, fit_classifier):
        classifier = fit_classifier(marked.net, marked.X, marked.y, keep_heatmaps=True)

        def fail(*args):
            raise AssertionError("heatmaps were computed")

        monkeypatch.setattr(HeatmapTransformer, "_attribute", fail)
        assert str(ShortcutReport.from_estimator(classifier, marked.X, marked.y)) == str(report)

    def test_other_images_are_put_into_the_clusters(self, marked, make_images):
        X, y, _ = make_images(200, seed=7)
        report = ShortcutReport.from_estimator(marked.classifier, X, y)
        groups = marked.classifier.predict_groups(X, y)
        for (name, cluster), row in rows_by_group(report).items():
            assert row["size"] == np.sum(groups == 2 * (name == "pullover") + cluster)
        assert str(report).startswith("Likely a shortcut: the bottom right corner")

    def test_a_tensor_and_a_list_give_the_same_report_as_an_array(self, marked, report):
        for X in (torch.from_numpy(marked.X), list(marked.X)):
            assert str(ShortcutReport.from_estimator(marked.classifier, X, marked.y.tolist())) == str(report)

    def test_numbers_as_classes_are_reported_as_numbers(self, marked, fit_classifier):
        y = np.where(marked.y == "coat", 3, 7)
        report = ShortcutReport.from_estimator(fit_classifier(marked.net, marked.X, y), marked.X, y)
        assert str(report).startswith("Likely a shortcut: the bottom right corner, for 3 (cluster 0).")

    def test_stability_can_be_left_out(self, marked):
        report = ShortcutReport.from_estimator(marked.classifier, marked.X, marked.y, n_resamples=0)
        assert np.isnan([row["stability"] for row in report.rows]).all()

    def test_a_cluster_that_every_subsample_finds_again_has_stability_1(self, report):
        assert [row["stability"] for row in report.rows] == [1.0] * 4


class TestChoices:
    def test_a_dropped_cluster_is_left_out_of_the_refitted_layer_and_of_the_rows(
        self, marked, fit_classifier
    ):
        classifier = fit_classifier(marked.net, marked.X, marked.y)
        before = classifier.strategy_
        classifier.labeler_.rename({0: "watermark"}).drop(1)
        kept = classifier.labeler_.cluster_labels_ == 0
        with pytest.warns(ClusteringWarning):
            assert classifier.refit_strategy(marked.y) is classifier
        assert classifier.strategy_ is not before
        assert_array_equal(classifier.cluster_labels_ == 0, kept)
        assert_array_equal(classifier.group_labels_ >= 0, kept)
        # The groups that are left are the classes of the kept images.
        classes_only = clone(classifier.strategy).fit(classifier.embeddings_[kept], marked.y[kept])
        assert_allclose(classifier.strategy_.coef_, classes_only.coef_, rtol=0.05)
        report = ShortcutReport.from_estimator(classifier, marked.X, marked.y)
        assert [row["cluster_name"] for row in report.rows] == ["watermark", "watermark"]
        n_left_out = np.sum(~kept)
        assert f"\n\n{n_left_out} of 300 images are in no cluster, because theirs was dropped.\n" in str(
            report
        )
        # The rest of the class is still there to be compared with.
        assert report.findings[0].startswith(
            "Likely a shortcut: the bottom right corner, for 'coat' (watermark)."
        )

    def test_merging_all_clusters_makes_the_classes_the_groups(self, marked, fit_classifier):
        classifier = fit_classifier(marked.net, marked.X, marked.y)
        classifier.labeler_.merge([0, 1])
        with pytest.warns(ClusteringWarning):
            classifier.refit_strategy(marked.y)
        assert set(classifier.group_labels_) == {0, 2}

    def test_a_refit_that_fails_leaves_the_last_fit_as_it_is(self, marked, fit_classifier, monkeypatch):
        classifier = fit_classifier(marked.net, marked.X, marked.y)
        before = dict(vars(classifier))
        classifier.labeler_.merge([0, 1])
        monkeypatch.setattr(type(classifier.strategy_), "predict", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), pytest.warns(ClusteringWarning):
            classifier.refit_strategy(marked.y)
        assert vars(classifier) == before

    def test_a_classifier_without_clusters_has_nothing_to_refit(self, marked, fit_classifier):
        with pytest.raises(NotFittedError):
            ExMapClassifier(marked.net).refit_strategy(marked.y)
        classifier = fit_classifier(marked.net, marked.X, marked.y)
        with pytest.raises(ValueError, match="y has 2 entries for 300 samples"):
            classifier.refit_strategy(marked.y[:2])
        swapped = np.where(np.arange(300) < 3, np.roll(np.unique(marked.y), 1)[0], marked.y)
        n_others = np.sum(swapped != marked.y)
        assert n_others > 0
        with pytest.raises(ValueError, match=f"{n_others} of 300 labels in y are not those of `fit`"):
            classifier.refit_strategy(swapped)
        del classifier.labeler_
        with pytest.raises(ValueError, match="no PseudoGroupLabeler"):
            classifier.refit_strategy(marked.y)


class TestRefusals:
    @pytest.mark.parametrize(
        "params, message",
        [
            ({"y": ["coat"]}, "y has 1 entries for 300"),
            ({"y": ["hat"] * 300}, "y holds 1 class"),
            ({"y": None}, "y is None. Pass the class of each of 300 samples"),
            ({"y": [None] * 300}, "300 of 300 labels in y are missing"),
            (
                {"X_test": np.zeros((2, 3, 14, 14))},
                "`X_test` is given without `y_test`. Pass both, or neither",
            ),
            ({"y_test": ["coat"]}, "`y_test` is given without `X_test`"),
            ({"n_folds": 0}, "n_folds == 0, must be >= 2"),
            ({"n_folds": 1}, "n_folds == 1, must be >= 2"),
            ({"n_resamples": -1}, "n_resamples == -1, must be >= 0"),
            ({"group_labels": [0, 1]}, "`group_labels` has 2 entries for 300 samples"),
            (
                {"estimator": DFRClassifier()},
                "DFRClassifier cannot be reported on. Pass a fitted ExMapClassifier",
            ),
            ({"estimator": ExMapClassifier()}, "not fitted"),
        ],
    )
    def test_arguments_that_do_not_fit(self, marked, params, message):
        arguments = {"estimator": marked.classifier, "X": marked.X, "y": marked.y, **params}
        with pytest.raises(ValueError, match=message):
            ShortcutReport.from_estimator(**arguments)

    def test_a_negative_number_of_examples(self, report, tmp_path):
        with pytest.raises(ValueError, match="n_examples == -1, must be >= 0"):
            report.save(tmp_path / "report.html", n_examples=-1)
        assert not list(tmp_path.iterdir())

    def test_a_classifier_fitted_on_given_groups(self, marked):
        strategy = DFRClassifier(n_retrains=2, min_group_size=1, random_state=0)
        classifier = ExMapClassifier(marked.net, strategy=strategy)
        classifier.fit(marked.X, marked.y, group_labels=marked.mark)
        with pytest.raises(ValueError, match="fitted on given group labels, so it has no clusters"):
            ShortcutReport.from_estimator(classifier, marked.X, marked.y)

    @pytest.mark.parametrize(
        "package, method, remedy",
        [
            ("pandas", "to_frame", "needs pandas. Install it with"),
            ("h5py", "to_virelay", "needs h5py. Install it with"),
            ("jinja2", "save", "needs Jinja2 and Pillow. Install them with"),
        ],
    )
    def test_a_package_that_is_missing(self, report, monkeypatch, package, method, remedy):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=f"{method} {remedy}"):
            getattr(report, method)(*[] if method == "to_frame" else ["unused"])


class TestText:
    @pytest.mark.parametrize(
        "names", [("a coat with a very long name " * 4, "p" * 200), ("coat\x1b[2J\n", "pullover\r")]
    )
    def test_lines_are_printable_and_not_longer_than_80_characters(self, marked, fit_classifier, names):
        y = np.where(marked.y == "coat", *names)
        classifier = fit_classifier(marked.net, marked.X, y)
        classifier.labeler_.rename(dict(enumerate(names)))
        report = ShortcutReport.from_estimator(classifier, marked.X, y, n_resamples=0)
        lines = str(report).split("\n")
        assert all(len(line) <= 80 and (line.isprintable() or not line) for line in lines)
        assert all(len(finding.split("\n")) == 5 for finding in report.findings)

    @pytest.mark.parametrize("n_others", [2, 70])
    def test_only_images_that_are_not_yet_of_the_class_take_part_in_the_exchange(
        self, marked, fit_classifier, n_others
    ):
        predicted = marked.net(torch.from_numpy(marked.X)).argmax(1).numpy()
        pullovers = np.flatnonzero((predicted == 1) & (marked.classifier.cluster_labels_ == 1))
        others = np.flatnonzero(predicted == 0)
        rows = np.concatenate([others, pullovers[:n_others]])
        report = ShortcutReport.from_estimator(
            marked.classifier, marked.X[rows], marked.y[rows], n_resamples=0
        )
        told = next(row for row in report._groups if row["cluster"] == 0)
        assert told["n_takers"] == (min(n_others, 50) if told["dependence"] else 0)

    def test_csv_and_frame_hold_the_rows(self, report, tmp_path):
        pytest.importorskip("pandas")
        lines = list(csv.DictReader(io.StringIO(report.to_csv())))
        assert [line["class"] for line in lines] == [row["class"] for row in report.rows]
        assert [float(line["score"]) for line in lines] == [row["score"] for row in report.rows]
        assert report.to_csv(tmp_path / "rows.csv") is None
        assert (tmp_path / "rows.csv").read_text() == report.to_csv()
        frame = report.to_frame()
        assert list(frame.columns) == list(report.rows[0]) == list(lines[0])
        assert frame["place"].tolist() == [row["place"] for row in report.rows]
