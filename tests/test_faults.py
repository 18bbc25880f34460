"""Single faults: of models, images, arrays and numbers. `docs/faults.md` lists them with what happens then."""

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.metrics import accuracy_score

from skexmap import EmbeddingTransformer, HeatmapTransformer, PseudoGroupLabeler
from skexmap._torch import freeze_for_pickle
from skexmap.cluster import EigengapSpectralClustering, SilhouetteKMeans
from skexmap.datasets import make_shortcut_features
from skexmap.lrp import LRP
from skexmap.metrics import group_report, purity_score, shortcut_gaps, worst_group_accuracy
from skexmap.retraining import (
    AFRClassifier,
    DFRClassifier,
    DFRClassifierCV,
    DivDisClassifier,
    ERMClassifier,
    GroupDROClassifier,
    JTTReweighter,
    LfFClassifier,
)

FEATURES, LABELS, SHORTCUT = make_shortcut_features(200, agreement=0.9, random_state=0)
GROUPS = 2 * LABELS + SHORTCUT
TRANSFORMERS = [HeatmapTransformer(size=4, return_embedding=True), EmbeddingTransformer()]
by_transformer = pytest.mark.parametrize("transformer", TRANSFORMERS, ids=["maps", "embeddings"])


def frozen(model):
    """Return the bytes of a model."""
    return pickle.dumps(freeze_for_pickle(model)), [module.training for module in model.modules()]


# Models


def test_a_net_in_data_parallel_has_the_maps_of_the_net(net, images):
    alone, wrapped = HeatmapTransformer(net, size=4), HeatmapTransformer(torch.nn.DataParallel(net), size=4)
    assert_array_equal(wrapped.fit_transform(*images), alone.fit_transform(*images))


def test_a_net_in_half_precision_has_the_clusters_of_the_net(net, two_clusters, images):
    found = []
    for model in (net.half(), net.float()):
        maps = HeatmapTransformer(model, size=4).fit_transform(images[0])
        found.append(two_clusters.fit(maps, images[1]).cluster_labels_)
    assert_array_equal(*found)


BROKEN = {
    "NaN weights": (lambda net: net[0].weight[0].fill_(np.nan), "logits .*NaN|NaN or infinit"),
    "infinite weights": (lambda net: net[7].weight[0].fill_(np.inf), "NaN or infinit"),
    "exploding logits": (
        lambda net: [layer.weight.mul_(1e25) for layer in (net[0], net[3], net[7])],
        "NaN or infinit",
    ),
}


@pytest.mark.parametrize("breaks, message", BROKEN.values(), ids=BROKEN)
@by_transformer
def test_logits_that_are_not_finite_are_refused_and_the_net_is_left_as_it_was(
    transformer, net, images, breaks, message
):
    with torch.no_grad():
        breaks(net)
    before = frozen(net)
    with pytest.raises(ValueError, match=message):
        transformer.set_params(model=net).fit_transform(*images)
    assert frozen(net) == before


# Images


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_an_error_of_load_at_item_777_names_it(net, n_jobs):
    maps = EmbeddingTransformer(net, load=Failing(), n_jobs=n_jobs)
    with pytest.raises(
        ValueError, match=r"Could not load image 777 \(777\): OSError: the disk is gone\. `load` must"
    ):
        maps.fit_transform(np.arange(800))


class Failing:
    """Load an image of zeros, but for item 777."""

    def __call__(self, item):
        if item == 777:
            raise OSError("the disk is gone")
        return torch.full((3, 10, 10), item / 800)


def test_a_file_that_vanishes_during_a_transform_is_named(net, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    paths = [str(tmp_path / f"{i}.png") for i in range(40)]
    for i, path in enumerate(paths):
        Image.new("RGB", (10, 10), (5 * i, 0, 0)).save(path)
    transformer = EmbeddingTransformer(net, batch_size=4).fit(paths)
    net.register_forward_hook(lambda *_: Path(paths[-1]).unlink(missing_ok=True))
    with pytest.raises(
        ValueError, match=r"Could not load image 39: '.*39\.png' cannot be read: FileNotFoundError"
    ):
        transformer.transform(paths)


def test_a_list_of_pictures_in_other_modes_is_read(net):
    Image = pytest.importorskip("PIL.Image")
    red = Image.new("RGB", (10, 10), (255, 0, 0))
    modes = [red, red.convert("P"), red.convert("RGBA"), red.convert("CMYK")]
    embeddings = EmbeddingTransformer(net).fit_transform(modes)
    assert_allclose(embeddings, embeddings[[0, 0, 0, 0]], rtol=1e-5)


NO_PIXELS = {
    "no pixel": (np.ones((4, 3, 0, 10)), ValueError, r"shape \(3, 0, 10\): they hold no pixel"),
    "dates": (
        np.zeros((4, 3, 9, 9), "datetime64[D]"),
        TypeError,
        r"must be numbers, but have the type datetime64\[D\]",
    ),
    "sparse": (
        scipy.sparse.csr_array(np.ones((4, 9))),
        TypeError,
        r"X is sparse \(csr_array\).* Pass X\.toarray",
    ),
    "ragged": ([[1.0], [1.0, 2.0]], ValueError, "The 2 items of X differ in shape"),
}


@pytest.mark.parametrize("X, error, message", NO_PIXELS.values(), ids=NO_PIXELS)
@by_transformer
def test_what_holds_no_pixels_is_refused(transformer, net, X, error, message):
    with pytest.raises(error, match=message):
        transformer.set_params(model=net).fit(X)


@by_transformer
def test_images_of_long_doubles_are_read(transformer, net, images):
    transformer.set_params(model=net)
    expected = transformer.fit_transform(images[0])
    assert_array_equal(transformer.fit_transform(images[0].astype(np.longdouble)), expected)


def test_maps_that_are_all_zero_are_one_cluster_with_a_warning(net, images):
    maps = HeatmapTransformer(net, size=4, attribution=lambda model, images, targets: 0 * images)
    with pytest.warns(UserWarning, match="All 60 rows are identical"):
        assert EigengapSpectralClustering().fit(maps.fit_transform(images[0])).n_clusters_ == 1


# Arrays

STRATEGIES = [
    ERMClassifier(),
    DFRClassifier(n_retrains=2, random_state=0),
    GroupDROClassifier(n_steps=10, random_state=0),
    JTTReweighter(),
    AFRClassifier(),
]
by_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
FORMS = {
    "object": lambda X: X.astype(object),
    "list": lambda X: X.tolist(),
    "long double": lambda X: X.astype(np.longdouble),
    "negative strides": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "Fortran": np.asfortranarray,
    "with gradient": lambda X: torch.tensor(X, requires_grad=True) * 1,
}


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.PredictionWarning")
@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
@by_strategy
def test_the_form_of_the_embeddings_changes_no_coefficient(strategy, make):
    expected = strategy.fit(FEATURES, LABELS).coef_
    assert_allclose(strategy.fit(make(FEATURES), LABELS).coef_, expected, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.PredictionWarning")
@by_strategy
def test_embeddings_may_be_constant_or_duplicated_or_read_only(strategy):
    read_only = np.repeat(FEATURES[::2], 2, axis=0)
    read_only.flags.writeable = False
    for X in (np.full_like(FEATURES, 3), read_only):
        assert np.isfinite(strategy.fit(X, LABELS).coef_).all()


BAD_ROWS = {
    "empty": (FEATURES[:0], ValueError, r"0 sample\(s\)"),
    "one row": (FEATURES[:1], ValueError, r"1 sample\(s\)"),
    "ragged": ([[1.0, 2.0], [3.0]], ValueError, "inhomogeneous"),
    "sparse": (scipy.sparse.csr_array(FEATURES), TypeError, "Sparse data"),
    "text": (FEATURES.astype(str).astype(object) + "x", ValueError, "could not convert string"),
    "NaN": (np.where(FEATURES > 1, np.nan, FEATURES), ValueError, "contains NaN"),
    "complex": (FEATURES + 1j, ValueError, "Complex data"),
}


@pytest.mark.parametrize("X, error, message", BAD_ROWS.values(), ids=BAD_ROWS)
@by_strategy
def test_embeddings_that_cannot_be_read_are_refused(strategy, X, error, message):
    n = X.shape[0] if hasattr(X, "shape") else len(X)
    with pytest.raises(error, match=message):
        strategy.fit(X, LABELS[:n])


BAD_LABELS = {
    "one class": (0 * LABELS, "only one class: 0"),
    "continuous": (FEATURES[:, 0], "Unknown label type"),
    "NaN": (np.where(LABELS == 1, np.nan, 0), "of 200 labels in y are missing"),
    "multilabel": (
        np.ones((200, 3), dtype=int),
        "every image has one class.*several labels, fit one classifier for each",
    ),
    "ragged": ([[0], [1, 2]] * 100, "rows of `y` differ in length, but every image has one class"),
    "wrong length": (LABELS[1:], "199 entries for 200"),
    "dates": (
        LABELS.astype("datetime64[D]"),
        r"y has the type datetime64\[D\]\. Pass classes as integers or text",
    ),
}


@pytest.mark.parametrize("y, message", BAD_LABELS.values(), ids=BAD_LABELS)
@by_strategy
def test_labels_that_are_not_one_class_per_sample_are_refused(strategy, y, message):
    with pytest.raises(ValueError, match=message):
        strategy.fit(FEATURES, y)


def test_group_labels_may_be_negative_or_floats():
    expected = DFRClassifier(n_retrains=2, random_state=0).fit(FEATURES, LABELS, group_labels=GROUPS)
    for labels in (GROUPS - 9, GROUPS + 0.5, GROUPS.astype(str), GROUPS.astype(object)):
        dfr = DFRClassifier(n_retrains=2, random_state=0).fit(FEATURES, LABELS, group_labels=labels)
        assert_array_equal(dfr.coef_, expected.coef_)


NO_GROUP = {
    "number": np.where(LABELS == SHORTCUT, GROUPS, -1),
    "float": np.where(LABELS == SHORTCUT, GROUPS, -1.0),
    "text": np.where(LABELS == SHORTCUT, GROUPS, -1).astype(str),
    "text of a float": np.where(LABELS == SHORTCUT, GROUPS.astype(str), "-1.0"),
    "object": np.where(LABELS == SHORTCUT, GROUPS, -1).astype(object),
    "list": [
        f"g{group}" if label == shortcut else -1
        for group, label, shortcut in zip(GROUPS, LABELS, SHORTCUT, strict=True)
    ],
}


@pytest.mark.parametrize("labels", NO_GROUP.values(), ids=NO_GROUP)
def test_minus_one_means_no_group_everywhere_however_it_is_written(labels):
    inside = LABELS == SHORTCUT
    assert group_report(LABELS, SHORTCUT, group_labels=labels).n_left_out == np.sum(~inside)
    assert worst_group_accuracy(LABELS, SHORTCUT, group_labels=labels) == 1
    assert purity_score(labels, np.where(inside, GROUPS, 0)) == 1
    for strategy in (
        DFRClassifier(n_retrains=2, random_state=0),
        GroupDROClassifier(n_steps=9, random_state=0),
    ):
        with_none = strategy.fit(FEATURES, LABELS, group_labels=labels)
        assert with_none.group_counts_.tolist() == np.bincount(GROUPS[inside])[[0, 3]].tolist()


# Numbers


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.PredictionWarning")
@pytest.mark.parametrize(
    "strategy",
    [
        GroupDROClassifier(learning_rate=500, random_state=0),
        AFRClassifier(gamma=800),
        LfFClassifier(q=1e-300, n_steps=50, random_state=0),
        ERMClassifier(C=1e-300),
    ],
    ids=str,
)
def test_extreme_settings_give_finite_coefficients(strategy):
    learned = vars(strategy.fit(FEATURES, LABELS))
    for name in ("coef_", "intercept_", "biased_coef_"):
        assert np.isfinite(learned.get(name, 0)).all()


@pytest.mark.parametrize("make", [GroupDROClassifier, DivDisClassifier])
def test_a_step_that_leads_to_infinite_coefficients_is_refused(make):
    with pytest.raises(ValueError, match=r"not finite after the fit. Lower the step"):
        make(learning_rate=1e300, random_state=0).fit(FEATURES, LABELS)


@pytest.mark.parametrize("value", [1e160, 1e200])
@pytest.mark.parametrize(
    "strategy", [ERMClassifier(), DFRClassifier(), DFRClassifierCV(), AFRClassifier()], ids=str
)
def test_one_outlier_whose_square_overflows_is_refused(strategy, value):
    X = FEATURES.copy()
    X[3, 0] = value
    with pytest.raises(
        ValueError, match=f"variance of 1 of 10 features .* {re.escape(f'{value:.3g}')}. Remove the outliers"
    ):
        strategy.fit(X, LABELS)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::skexmap.exceptions.PredictionWarning")
@pytest.mark.parametrize("make", [ERMClassifier, DFRClassifier])
def test_raw_embeddings_may_be_huge_until_their_squares_overflow(make):
    strategy = make(standardize=False)
    assert np.isfinite(strategy.fit(FEATURES * 1e100, LABELS).coef_).all()
    with pytest.raises(ValueError, match=r"square of 10 of 10 features .* overflows"):
        strategy.fit(FEATURES * 1e200, LABELS)


def test_scores_that_overflow_are_refused():
    erm = ERMClassifier().fit(FEATURES * 1e-100, LABELS)
    with pytest.raises(ValueError, match=r"scores of 200 of 200 samples overflow.* Scale the embeddings"):
        erm.predict(np.abs(FEATURES) * 1e300)


@pytest.mark.parametrize(
    "params, weight, message",
    [
        ({"C": 1e301}, 1.0, r"C=1e\+301 times the sum of the weights is .*Choose another C"),
        ({}, 1e-310, "scale the weights"),
        ({"class_weight": {0: 0.0, 1: 0.0}}, 1.0, "all are 0"),
        ({"class_weight": {0: -1.0}}, 1.0, "100 of 200 sample weights are negative"),
        ({"class_weight": {0: 1e300}}, 1e300, "100 of 200 sample weights are .*infinite"),
    ],
)
def test_weights_and_strengths_out_of_range_are_refused(params, weight, message):
    with pytest.raises(ValueError, match=message):
        ERMClassifier(**params).fit(FEATURES, np.arange(200) % 2, sample_weight=np.full(200, weight))


@pytest.mark.parametrize("strategy", [DFRClassifier(C=1e300), DFRClassifierCV(Cs=(1.0, 1e300))], ids=str)
def test_a_strength_whose_curvature_overflows_is_refused(strategy):
    with pytest.raises(ValueError, match=r"C=1e\+300 is too large for \d+ samples.*Choose a smaller C"):
        strategy.fit(FEATURES, LABELS)


def test_new_rows_beyond_the_type_of_the_fit_are_refused():
    rows = np.random.default_rng(0).normal(size=(40, 3)) + 9 * (np.arange(40) % 4 > 1)[:, None]
    clusterer = KMeans(2, n_init=1, random_state=0)
    labeler = PseudoGroupLabeler(clusterer, merge_alpha=None).fit(rows.astype(np.float32), np.arange(40) % 2)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        labeler.transform(rows * 1e300)


@pytest.mark.parametrize("value", [1e151, -1e151])
def test_a_feature_whose_curvature_overflows_is_refused_whatever_its_sign(value):
    features = FEATURES.copy()
    features[0, 0] = value
    with pytest.raises(ValueError, match=r"C=1 is too large for 200 samples with features up to 1e\+151"):
        DFRClassifier(C=1.0, standardize=False).fit(features, np.arange(200) % 2)


@pytest.mark.parametrize("scale", [1e20, 1e-25])
@pytest.mark.parametrize(
    "clusterer", [KMeans(2, n_init=1, random_state=0), SilhouetteKMeans(2, 3, random_state=0)], ids=str
)
def test_float32_rows_whose_squares_leave_float32_are_clustered_as_in_float64(clusterer, scale):
    rows = np.random.default_rng(0).normal(size=(60, 3)) + 9 * (np.arange(60) % 2)[:, None]
    labeler = PseudoGroupLabeler(clusterer, merge_alpha=None).fit(
        (scale * rows).astype(np.float32), np.arange(60) // 2 % 2
    )
    assert_array_equal(labeler.cluster_labels_, np.arange(60) % 2)
    assert_array_equal(labeler.transform((scale * rows).astype(np.float32))[:, 0], np.arange(60) % 2)


@pytest.mark.parametrize("of_fit, of_new", [(np.float32, np.float64), (np.float64, np.float32)])
def test_new_rows_may_have_another_precision_than_those_of_the_fit(of_fit, of_new):
    labeler = PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), merge_alpha=None)
    labeler.fit(FEATURES.astype(of_fit), LABELS)
    assert_array_equal(labeler.transform(FEATURES.astype(of_new))[:, 0], labeler.cluster_labels_)


def test_identical_float32_rows_are_split_by_the_rbf_kernel_without_a_warning_of_numpy():
    rbf = SpectralClustering(2, affinity="rbf", random_state=0)
    rows = np.ones((30, 3), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The clusters of the rows")
        labeler = PseudoGroupLabeler(rbf, merge_alpha=None).fit(rows, np.arange(30) % 2)
    assert set(labeler.cluster_labels_.tolist()) <= {0, 1}


def test_gaps_of_nothing_are_refused():
    with pytest.raises(ValueError, match="There are 0 samples"):
        shortcut_gaps([], [], shortcuts={"ink": []})
    with pytest.raises(ValueError, match=r"`shortcuts` must be a dict.* not empty"):
        shortcut_gaps([0, 1], [0, 1], shortcuts={})
    with pytest.raises(ValueError, match="1 of 2 labels in shortcut 'ink' are missing"):
        shortcut_gaps(["a", "b"], ["a", "b"], shortcuts={"ink": ["a", None]})


def test_weights_are_checked_before_a_gap_is_measured():
    for weights, message in [
        (["a", "b"], "could not convert"),
        ([1], "1 entries for 2"),
        ([1, -1], "1 of 2 .* negative"),
    ]:
        with pytest.raises(ValueError, match=message):
            shortcut_gaps([0, 1], [0, 1], shortcuts={"ink": [0, 1]}, sample_weight=weights)


def test_errors_cannot_be_repeated_without_end():
    with pytest.raises(ValueError, match=r"repeated upweight=1e\+300 times. Use an integer below 2\*\*31"):
        JTTReweighter(upweight=1e300, method="repeat").fit(FEATURES, LABELS)


# Properties


@pytest.mark.parametrize("composite", ["epsilon_gamma", "epsilon_plus"])
def test_relevance_is_conserved_without_epsilon_and_biases(images, composite):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, bias=False),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 6, 3, bias=False),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(24, 2, bias=False),
    ).double()
    with torch.no_grad():
        logits = net(torch.as_tensor(images[0]).double()).max(1).values.numpy()
    for start, total in [("one", np.ones(60)), ("logit", logits)]:
        lrp = LRP(composite, epsilon=0.0, initial_relevance=start)
        maps = HeatmapTransformer(net, attribution=lrp, evidence="signed", normalize=None, size=None)
        assert_allclose(maps.fit_transform(images[0]).sum(axis=1), total, rtol=1e-9)


@pytest.mark.parametrize(
    "clusterer", [EigengapSpectralClustering(), SilhouetteKMeans(2, 4, random_state=0)], ids=str
)
def test_the_order_of_the_rows_changes_no_partition(clusterer):
    rows = np.random.default_rng(0).normal(size=(90, 4)) + 12 * (np.arange(90) % 3)[:, None]
    order = np.random.default_rng(1).permutation(90)
    assert_array_equal(
        same_partition(clusterer.fit_predict(rows)[order]), same_partition(clusterer.fit_predict(rows[order]))
    )


def same_partition(labels):
    """Return which pairs of rows are in one cluster."""
    return labels[:, None] == labels


def test_the_order_of_the_samples_changes_dfr_by_rounding_only():
    # Each group is as large as the smallest, so every subsample is the whole set.
    rows = np.concatenate(
        [np.flatnonzero(group == GROUPS)[: np.bincount(GROUPS).min()] for group in range(4)]
    )
    order = np.random.default_rng(1).permutation(rows)
    fits = [
        DFRClassifier(n_retrains=2, random_state=0, min_group_size=1).fit(
            FEATURES[part], LABELS[part], group_labels=GROUPS[part]
        )
        for part in (rows, order)
    ]
    assert_allclose(fits[0].coef_, fits[1].coef_, rtol=1e-6, atol=1e-9)


def test_a_report_has_scikit_learns_accuracy_of_each_group():
    weight = np.random.default_rng(0).uniform(size=200)
    report = group_report(LABELS, SHORTCUT, group_labels=GROUPS, sample_weight=weight)
    for group, accuracy in zip(report.groups, report.accuracies, strict=True):
        inside = group == GROUPS
        assert accuracy == pytest.approx(
            accuracy_score(LABELS[inside], SHORTCUT[inside], sample_weight=weight[inside])
        )
    assert report.plain_mean == pytest.approx(accuracy_score(LABELS, SHORTCUT, sample_weight=weight))


# The page


def test_every_test_that_the_page_names_exists():
    tests = Path(__file__).parent
    named = re.findall(
        r"`([\w/]+\.py)::(\w+)`", (tests.parent / "docs" / "faults.md").read_text(encoding="utf-8")
    )
    assert len(named) > 50
    missing = [
        name
        for file, name in named
        if not re.search(rf"def {name}\(", (tests / file).read_text(encoding="utf-8"))
    ]
    assert missing == []
