"""Images that cannot be loaded: refused at once, or skipped and known as such by every later step."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.pipeline import Pipeline, make_pipeline
from small_nets import SHOWN, CountingNet, SmallNet

from skexmap import (
    DFRClassifier,
    EigengapSpectralClustering,
    EmbeddingTransformer,
    ExMapClassifier,
    HeatmapTransformer,
    PseudoGroupLabeler,
)
from skexmap.datasets import ImageNetTransform
from skexmap.exceptions import SkippedImagesWarning
from skexmap.features import ImageLoader
from skexmap.retraining import (
    AFRClassifier,
    CVaRDROClassifier,
    DFRClassifierCV,
    DivDisClassifier,
    EIILLabeler,
    ERMClassifier,
    GroupDROClassifier,
    JTTReweighter,
    LfFClassifier,
)

# Nets that nobody trained.
pytestmark = pytest.mark.filterwarnings("ignore::skexmap.exceptions.ConstantPredictionWarning")

Image = pytest.importorskip("PIL.Image")

N, BROKEN = 40, [3, 17, 30, 31]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def without_permission(path):
    """Make a file that opens but cannot be read, as for want of permission (which root does not want for)."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


BREAKAGES = {
    "truncated": (truncate, "OSError"),
    "empty": (lambda path: path.write_bytes(b""), "UnidentifiedImageError"),
    "no image": (lambda path: path.write_text("<html>404</html>"), "UnidentifiedImageError"),
    "missing": (Path.unlink, "FileNotFoundError"),
    "unreadable": (without_permission, "OSError"),
}
if not os.path.exists("/proc/self/mem"):
    del BREAKAGES["unreadable"]


@pytest.fixture
def labels():
    return np.arange(N) % 2


@pytest.fixture
def paths(tmp_path, labels):
    """JPEG files of 8 x 8 pixels: noise, and a bright half that follows the class for three of four images."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 90, size=(N, 8, 8, 3), dtype=np.uint8)
    half = np.where(np.arange(N) % 8 < 6, labels, 1 - labels)
    for i in range(N):
        pixels[i, 4 * half[i] : 4 * half[i] + 4] += 150
        Image.fromarray(pixels[i]).save(tmp_path / f"{i}.jpg", quality=95)
    return np.array([str(tmp_path / f"{i}.jpg") for i in range(N)])


@pytest.fixture
def broken(paths):
    """The same files with four of them broken in four ways."""
    for row, how in zip(BROKEN, ("truncated", "empty", "no image", "missing"), strict=True):
        BREAKAGES[how][0](Path(paths[row]))
    return paths


@pytest.fixture
def whole():
    return np.setdiff1d(np.arange(N), BROKEN)


def skipping(Transformer=HeatmapTransformer, **params):
    params = {"size": 4, "return_embedding": True, **params} if Transformer is HeatmapTransformer else params
    return Transformer(SmallNet(), batch_size=8, on_error="skip", **params)


def quiet(function, *args):
    """Call a function that warns of skipped images once; return its result and the warning."""
    with pytest.warns(SkippedImagesWarning) as caught:
        result = function(*args)
    (warning,) = (w.message for w in caught if w.category is SkippedImagesWarning)
    return result, warning


# Refused


@pytest.mark.parametrize("how", BREAKAGES)
def test_every_kind_of_broken_file_is_refused_by_name(paths, how):
    breaks, error = BREAKAGES[how]
    breaks(Path(paths[17]))
    with pytest.raises(
        ValueError, match=rf"1 of 40 images: image 17 \('.*17\.jpg'\): {error}: .*on_error=\"skip\""
    ):
        HeatmapTransformer(SmallNet()).fit_transform(paths)


@pytest.mark.parametrize("load", [None, ImageNetTransform(8, 8)])
def test_messages_show_paths_and_not_their_types(paths, load):
    Path(paths[17]).unlink()
    with pytest.raises(ValueError, match=r"No such file or directory: '.*17\.jpg'"):
        HeatmapTransformer(SmallNet(), load=load).fit(paths)


def test_one_error_counts_all_broken_files_before_the_model_runs(paths):
    transformer = EmbeddingTransformer(CountingNet(), batch_size=8).fit(paths)
    for row in range(30, 40):
        truncate(Path(paths[row]))
    SHOWN.clear()
    with pytest.raises(
        ValueError, match=r"Could not load 10 of 40 images: image 30 .*image 34 .*; and 5 more\."
    ):
        transformer.transform(paths)
    assert not SHOWN


def test_files_are_looked_at_before_any_work_with_the_published_transform_too(paths):
    truncate(Path(paths[39]))
    load = ImageNetTransform(8, 8)
    with pytest.raises(ValueError, match=r"1 of 40 images: image 39"):
        EmbeddingTransformer(SmallNet(), load=load).fit(paths)


def test_masks_are_looked_at_before_any_work_too(paths, tmp_path):
    for path in paths:
        Image.new("L", (8, 8), 255).save(Path(path).with_suffix(".png"))
    Path(paths[38]).with_suffix(".png").unlink()
    truncate(Path(paths[39]).with_suffix(".png"))
    load = ImageNetTransform(8, 8, foreground_only=True)
    transformer = EmbeddingTransformer(CountingNet(), load=load, batch_size=8).fit(paths[:8])
    SHOWN.clear()
    with pytest.raises(ValueError, match=r"2 of 40 images: image 38 .*38\.png.*; image 39"):
        transformer.transform(paths)
    assert not SHOWN


def odd_item_fails(item):
    """Load nothing for items of value 5 and 6; a load callable that workers can import."""
    if item in (5, 6):
        raise KeyError("no such item")
    return torch.full((3, 8, 8), float(item))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_failures_of_ones_own_loader_are_counted_by_the_batch(num_workers):
    transformer = EmbeddingTransformer(
        SmallNet(), load=odd_item_fails, batch_size=4, num_workers=num_workers
    ).fit(np.arange(4))
    match = r"2 of the 4 images of a batch: image 5 \(5\): KeyError: 'no such item'; image 6"
    with pytest.raises(ValueError, match=match):
        transformer.transform(np.arange(12))


def test_on_error_takes_two_words(paths):
    with pytest.raises(ValueError, match="on_error"):
        EmbeddingTransformer(SmallNet(), on_error="ignore").fit(paths)


# Skipped


@pytest.mark.parametrize("Transformer", [HeatmapTransformer, EmbeddingTransformer])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipped_images_keep_their_rows_as_nan_and_the_others_their_values(
    paths, whole, Transformer, num_workers
):
    params = {"return_embedding": False} if Transformer is HeatmapTransformer else {}
    expected = skipping(Transformer, **params).fit_transform(paths)
    for row in BROKEN:
        truncate(Path(paths[row]))
    transformer = skipping(Transformer, num_workers=num_workers, **params)
    found, warning = quiet(transformer.fit_transform, paths)
    assert_array_equal(found[whole], expected[whole])
    assert np.isnan(found[BROKEN]).all()
    assert_array_equal(transformer.skipped_, BROKEN)
    assert_array_equal(warning.indices, BROKEN)
    assert "4 of 40 images could not be loaded" in str(warning)
    assert "3.jpg" in str(warning)


def test_both_blocks_of_a_skipped_image_are_nan(broken, whole):
    blocks, _ = quiet(skipping().fit_transform, broken)
    for name in ("embedding", "heatmap"):
        assert np.isnan(blocks[name][BROKEN]).all()
        assert np.isfinite(blocks[name][whole]).all()


@pytest.mark.parametrize("how", BREAKAGES)
def test_every_kind_of_broken_file_is_skipped(paths, how):
    BREAKAGES[how][0](Path(paths[17]))
    transformer = skipping()
    quiet(transformer.fit_transform, paths)
    assert_array_equal(transformer.skipped_, [17])


def test_batches_without_a_readable_image_are_skipped_in_fit_and_transform(paths):
    for row in range(16):
        Path(paths[row]).unlink()
    transformer = skipping(EmbeddingTransformer).fit(paths)
    assert_array_equal(transformer.skipped_, np.arange(16))
    found, warning = quiet(transformer.transform, paths)
    assert_array_equal(np.isnan(found).all(axis=1), np.arange(N) < 16)
    assert "and 11 more" in str(warning)


def test_no_readable_image_at_all_is_an_error(paths):
    for path in paths:
        Path(path).unlink()
    with pytest.raises(ValueError, match=r"None of 40 images could be loaded: image 0 .*and 35 more"):
        skipping().fit(paths)


def test_nothing_is_skipped_and_nobody_warned_where_all_files_are_whole(paths):
    transformer = skipping()
    transformer.fit_transform(paths)
    assert transformer.skipped_.shape == (0,)


def test_the_position_of_a_pixel_that_is_not_finite_counts_skipped_images(broken):
    class Loader(ImageLoader):
        def __call__(self, path):
            image = super().__call__(path)
            return image * torch.nan if path.endswith("5.jpg") else image

    with pytest.raises(ValueError, match=r"NaN or infinity \(first: index 5\)"):
        skipping(load=Loader()).fit(broken)


def test_the_cache_keeps_no_failure(paths, tmp_path):
    intact = Path(paths[17]).read_bytes()
    truncate(Path(paths[17]))
    transformer = skipping(memory=str(tmp_path / "cache"))
    quiet(transformer.fit_transform, paths)
    Path(paths[17]).write_bytes(intact)
    repaired = transformer.fit_transform(paths)
    expected = skipping().fit_transform(paths)
    for name in ("embedding", "heatmap"):
        # Alone in its batch, the repaired image is computed in another order.
        np.testing.assert_allclose(repaired[name], expected[name], atol=1e-5)


@pytest.mark.parametrize("method", ["fit_transform", "transform"])
def test_the_warning_points_to_the_line_of_the_caller(broken, method):
    transformer = skipping().fit(broken[20:])
    with pytest.warns(SkippedImagesWarning) as caught:
        getattr(transformer, method)(broken)
    assert caught[0].filename == __file__


def test_the_warning_can_be_pickled():
    warning = pickle.loads(pickle.dumps(SkippedImagesWarning("two", np.array([1, 2]))))
    assert str(warning) == "two"
    assert_array_equal(warning.indices, [1, 2])


# The later steps


@pytest.fixture
def blocks(broken):
    return quiet(skipping().fit_transform, broken)[0]


CLUSTERERS = {
    "spectral": EigengapSpectralClustering(n_clusters=2, n_neighbors=8),
}


@pytest.mark.parametrize("clusterer", CLUSTERERS.values(), ids=CLUSTERERS)
@pytest.mark.parametrize("form", ["blocks", "plain"])
def test_a_clusterer_gives_skipped_images_no_cluster_and_the_others_the_one_they_have_alone(
    blocks, whole, clusterer, form
):
    X = blocks if form == "blocks" else blocks["heatmap"].reshape(N, -1)
    alone = clusterer.fit(X[whole])
    expected, of_new = alone.labels_, alone.predict(X[whole])
    fitted = clusterer.fit(X) if form == "blocks" else quiet(clusterer.fit, X)[0]
    assert_array_equal(fitted.labels_[whole], expected)
    assert_array_equal(fitted.predict(X)[whole], of_new)
    for labels in (fitted.labels_, fitted.predict(X)):
        assert labels.shape == (N,)
        assert (labels[BROKEN] == -1).all()


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("block", ["heatmap", "embedding"])
@pytest.mark.parametrize(
    "own", [KMeans(2, n_init=1, random_state=0), EigengapSpectralClustering(n_clusters=2, n_neighbors=8)]
)
def test_the_labeler_gives_skipped_images_no_group(blocks, labels, whole, scope, block, own):
    labeler = PseudoGroupLabeler(own, scope=scope, block=block, n_seed_checks=0, merge_alpha=None)
    expected = labeler.fit(blocks[whole], labels[whole]).group_labels_
    handed_on = labeler.fit_transform(blocks, labels)
    assert_array_equal(labeler.group_labels_[whole], expected)
    assert (labeler.group_labels_[BROKEN] == -1).all()
    assert (labeler.cluster_labels_[BROKEN] == -1).all()
    assert (handed_on["cluster"][BROKEN] == -1).all()
    assert (handed_on["cluster"][whole] >= 0).all()
    assert_array_equal(labeler.predict_groups(blocks, labels), labeler.group_labels_)
    assert_array_equal(labeler.transform(blocks)["cluster"], handed_on["cluster"])


STRATEGIES = {
    "DFR": DFRClassifier(n_retrains=3, min_group_size=1, random_state=0),
    "DFR, C tuned": DFRClassifierCV(Cs=(1, 0.1), n_retrains=3, min_group_size=1, random_state=0),
    "ERM": ERMClassifier(),
    "Group-DRO": GroupDROClassifier(n_steps=20, random_state=0),
    "CVaR": CVaRDROClassifier(n_steps=20, random_state=0),
    "AFR": AFRClassifier(),
    "LfF": LfFClassifier(n_steps=20, random_state=0),
    "DivDis": DivDisClassifier(n_steps=20, random_state=0),
    "JTT": JTTReweighter(ERMClassifier(), identification_estimator=ERMClassifier(C=1e-3)),
}


@pytest.fixture
def clustered(blocks, labels):
    return PseudoGroupLabeler(
        KMeans(2, n_init=1, random_state=0), n_seed_checks=0, merge_alpha=None
    ).fit_transform(blocks, labels)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_retraining_leaves_skipped_images_out(clustered, labels, whole, strategy):
    alone = strategy.fit(clustered[whole], labels[whole])
    coef, intercept = alone.coef_, alone.intercept_
    fitted = strategy.fit(clustered, labels)
    assert_array_equal(fitted.coef_, coef)
    assert_array_equal(fitted.intercept_, intercept)
    assert_array_equal(fitted.predict(clustered[whole]), alone.predict(clustered[whole]))


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize("plain", [False, True])
def test_prediction_refuses_skipped_images_and_says_which(clustered, labels, strategy, plain):
    fitted = strategy.fit(clustered, labels)
    X = clustered["embedding"] if plain else clustered
    with pytest.raises(
        ValueError, match=r"4 of 40 samples are NaN throughout \(rows 3, 17, 30, 31\): .*images"
    ):
        fitted.predict(X)


def test_plain_embeddings_of_skipped_images_are_left_out_with_a_warning(clustered, labels, whole):
    X, groups = clustered["embedding"], 2 * labels + (np.arange(N) % 8 < 6)
    dfr = STRATEGIES["DFR"]
    expected = dfr.fit(X[whole], labels[whole], group_labels=groups[whole]).coef_
    fitted, warning = quiet(lambda: dfr.fit(X, labels, group_labels=groups))
    assert_array_equal(fitted.coef_, expected)
    assert_array_equal(warning.indices, BROKEN)


def test_weights_and_error_sets_of_jtt_count_all_samples(clustered, labels, whole):
    jtt = STRATEGIES["JTT"]
    alone = jtt.fit(clustered[whole], labels[whole])
    weights, errors = alone.sample_weight_, alone.error_set_
    assert 0 < len(errors) < len(whole)
    fitted = jtt.fit(clustered, labels)
    assert_array_equal(fitted.error_set_, whole[errors])
    assert_array_equal(fitted.sample_weight_[whole], weights)
    assert (fitted.sample_weight_[BROKEN] == 0).all()


def test_sample_weights_follow_their_samples(clustered, labels, whole):
    weight = np.linspace(0.1, 2, N)
    expected = ERMClassifier().fit(clustered[whole], labels[whole], sample_weight=weight[whole]).coef_
    assert_array_equal(ERMClassifier().fit(clustered, labels, sample_weight=weight).coef_, expected)


def test_environment_inference_gives_skipped_images_no_environment(blocks, labels, whole):
    labeler = EIILLabeler()
    expected = labeler.fit(blocks[whole], labels[whole]).group_labels_
    handed_on = labeler.fit_transform(blocks, labels)
    assert_array_equal(labeler.group_labels_[whole], expected)
    assert (labeler.group_labels_[BROKEN] == -1).all()
    assert (handed_on["cluster"][BROKEN] == -1).all()
    assert_array_equal(labeler.predict_groups(blocks, labels), labeler.group_labels_)


def test_rows_with_some_nan_are_still_refused(blocks, clustered, labels):
    blocks["heatmap"][5, 0, 0, 0] = np.nan
    clustered["embedding"][5, 0] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        CLUSTERERS["spectral"].fit(blocks)
    with pytest.raises(ValueError, match="contains NaN"):
        STRATEGIES["DFR"].fit(clustered, labels)


def test_blocks_as_columns_of_a_frame_are_skipped_alike(broken, labels, whole):
    pytest.importorskip("pandas")
    frame, _ = quiet(skipping().set_output(transform="pandas").fit_transform, broken)
    blocks, _ = quiet(skipping().fit_transform, broken)
    labeler = PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), n_seed_checks=0, merge_alpha=None)
    dfr = STRATEGIES["DFR"]
    expected = dfr.fit(labeler.fit_transform(blocks, labels), labels).coef_
    found = dfr.fit(labeler.set_output(transform="pandas").fit_transform(frame, labels), labels).coef_
    np.testing.assert_allclose(found, expected)


# The whole method


def test_a_pipeline_fits_on_a_folder_with_broken_files_as_on_one_without_them(broken, labels, whole):
    pipe = Pipeline(
        [
            ("heatmaps", skipping()),
            (
                "clusterer",
                PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), n_seed_checks=0, merge_alpha=None),
            ),
            ("dfr", STRATEGIES["DFR"]),
        ]
    )
    expected = pipe.fit(broken[whole], labels[whole]).predict(broken[whole])
    fitted, warning = quiet(pipe.fit, broken, labels)
    assert_array_equal(warning.indices, BROKEN)
    assert_array_equal(fitted.named_steps["heatmaps"].skipped_, BROKEN)
    assert_array_equal(fitted.predict(broken[whole]), expected)
    with (
        pytest.warns(SkippedImagesWarning, match="4 of 40 images"),
        pytest.raises(ValueError, match=r"4 of 40 samples .*rows 3, 17, 30, 31"),
    ):
        fitted.predict(broken)


@pytest.mark.slow
def test_worker_processes_of_joblib_skip_the_same_images(broken, labels, whole):
    pipe = make_pipeline(
        skipping(),
        PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), n_seed_checks=0, merge_alpha=None),
        STRATEGIES["DFR"],
    )
    fitted = Parallel(n_jobs=2)(delayed(clone(pipe).fit)(broken, labels) for _ in range(2))
    expected = quiet(pipe.fit, broken, labels)[0]
    for one in fitted:
        assert_array_equal(one[0].skipped_, BROKEN)
        np.testing.assert_allclose(one[-1].coef_, expected[-1].coef_, rtol=1e-4)
        assert_array_equal(one.predict(broken[whole]), expected.predict(broken[whole]))


def test_an_embedding_pipeline_with_known_groups_leaves_broken_files_out(broken, labels, whole):
    pipe = make_pipeline(skipping(EmbeddingTransformer), STRATEGIES["ERM"])
    expected = pipe.fit(broken[whole], labels[whole]).predict(broken[whole])
    with pytest.warns(SkippedImagesWarning) as caught:
        pipe.fit(broken, labels)
    told = [str(w.message) for w in caught if w.category is SkippedImagesWarning]
    assert ["could not be loaded" in message for message in told] == [True, False]
    assert_array_equal(pipe.predict(broken[whole]), expected)


@pytest.mark.parametrize("given", [False, True])
def test_the_classifier_reports_skipped_images_and_fits_on_the_others(broken, labels, whole, given):
    groups = 2 * labels + (np.arange(N) % 8 < 6) if given else None
    classifier = ExMapClassifier(
        SmallNet(),
        heatmaps=HeatmapTransformer(size=4, on_error="skip", num_workers=2, batch_size=8),
        clusterer=PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), n_seed_checks=0, merge_alpha=None),
        strategy=STRATEGIES["DFR"],
    )
    alone = classifier.fit(broken[whole], labels[whole], None if groups is None else groups[whole])
    expected, report = alone.predict(broken[whole]), alone.report_
    with pytest.warns(SkippedImagesWarning):
        classifier.fit(broken, labels, groups)
    assert_array_equal(classifier.skipped_, BROKEN)
    assert classifier.group_labels_.shape == (N,)
    if not given:
        assert (classifier.group_labels_[BROKEN] == -1).all()
    assert np.isnan(classifier.embeddings_[BROKEN]).all()
    assert_array_equal(classifier.predict(broken[whole]), expected)
    assert str(classifier.report_) == str(report)
    with (
        pytest.warns(SkippedImagesWarning),
        pytest.raises(ValueError, match=r"4 of 40 samples .*rows 3, 17, 30, 31"),
    ):
        classifier.predict(broken)
