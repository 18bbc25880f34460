"""HeatmapTransformer: every parameter, and every kind of bad input."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from small_nets import SHOWN, AuxiliaryNet, CountingNet, FlatNet, SmallNet
from torch import nn

from skexmap.features import EmbeddingTransformer, HeatmapTransformer
from skexmap.lrp import COMPOSITES, LRP, Composite, Epsilon, On, UnsupportedOperationError
from skexmap.lrp._engine import RelevanceEngine

epsilon_gamma = COMPOSITES["epsilon_gamma"]


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(11, 3, 8, 8)).astype(np.float32)


def raw_maps(net, images, target=None, composite=None, start="one"):
    """Full-size relevance from the engine alone, predicted classes by default."""
    net = net.eval()
    with torch.no_grad():
        chosen = net(torch.from_numpy(images)).argmax(1) if target is None else target
    engine = RelevanceEngine(net, composite or epsilon_gamma())
    return engine.attribute(torch.from_numpy(images), lambda _: chosen, start).relevance.detach().numpy()


# What `evidence` keeps of the relevance.
KEPT = {"magnitude": np.abs, "signed": np.asarray}


def maps_of(net, images, **parameters):
    return HeatmapTransformer(net, **parameters).fit_transform(images)


def test_the_magnitude_of_the_evidence_is_the_default(images):
    assert (raw_maps(SmallNet(), images) < 0).any()
    found = maps_of(SmallNet(), images)
    assert found.min() >= 0
    assert_array_equal(found, maps_of(SmallNet(), images, evidence="magnitude"))


@pytest.mark.parametrize("evidence", KEPT)
def test_evidence_is_taken_per_channel_then_shrunk_bilinearly_then_divided_by_the_largest(images, evidence):
    raw = KEPT[evidence](raw_maps(SmallNet(), images))
    found = maps_of(SmallNet(), images, size=None, normalize=None, evidence=evidence)
    assert found.dtype == np.float32
    assert_allclose(found.reshape(images.shape), raw, rtol=1e-4, atol=1e-7)
    # A bilinear reading from 8 to 2 looks at the four pixels around the middle of each 4 x 4 patch.
    shrunk = raw.reshape(11, 3, 2, 4, 2, 4)[:, :, :, 1:3, :, 1:3].mean((3, 5)).reshape(11, -1)
    assert_allclose(
        maps_of(SmallNet(), images, size=2, normalize=None, evidence=evidence), shrunk, rtol=1e-4, atol=1e-7
    )
    expected = shrunk / np.abs(shrunk).max(1, keepdims=True)
    found = maps_of(SmallNet(), images, size=2, evidence=evidence)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert_allclose(np.abs(found).max(1), 1)


def test_the_target_can_be_the_prediction_one_class_or_a_function(images):
    net = SmallNet(3).eval()
    second = net(torch.from_numpy(images)).argsort(1)[:, -2]
    targets = {0: torch.full((11,), 0), 2: torch.full((11,), 2), lambda z: z.argsort(1)[:, -2]: second}
    for target, chosen in targets.items():
        lrp = LRP(target=target)
        found = maps_of(net, images, attribution=lrp, size=None, normalize=None, evidence="signed")
        expected = raw_maps(net, images, chosen)
        assert_allclose(found.reshape(images.shape), expected, rtol=1e-4, atol=1e-6)


def test_starting_at_the_logit_multiplies_the_map_by_it(images):
    net = SmallNet()
    ones, logits = (
        maps_of(
            net,
            images,
            attribution=LRP(initial_relevance=start, target=1),
            normalize=None,
            evidence="signed",
        )
        for start in ("one", "logit")
    )
    z = net.eval()(torch.from_numpy(images)).detach().numpy()[:, 1:]
    assert (z < 0).any()
    assert_allclose(logits, ones * z, rtol=1e-3, atol=1e-6)


def test_gamma_epsilon_and_composite_reach_the_rules(images):
    parameters = {"size": None, "normalize": None, "evidence": "signed"}
    found = maps_of(SmallNet(), images, attribution=LRP(gamma=0.5, epsilon=0.1), **parameters).reshape(
        images.shape
    )
    expected = raw_maps(SmallNet(), images, composite=epsilon_gamma(gamma=0.5, epsilon=0.1))
    assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    own = Composite([(On(), Epsilon(0.01))])
    found = maps_of(SmallNet(), images, attribution=LRP(own), **parameters).reshape(images.shape)
    assert_allclose(found, raw_maps(SmallNet(), images, composite=own), rtol=1e-4, atol=1e-6)


def test_embedding_and_map_come_from_one_forward_pass(images):
    net = SmallNet().eval()
    transformer = HeatmapTransformer(net, size=4, return_embedding=True).fit(images)
    assert (transformer.image_shape_, transformer.heatmap_shape_) == ((3, 8, 8), (3, 4, 4))
    assert (transformer.n_features_in_, transformer.n_logits_, transformer.head_) == (192, 2, "head")
    blocks = transformer.transform(images)
    assert blocks.dtype.names == ("embedding", "heatmap", "predicted")
    assert blocks["heatmap"].shape == (11, 3, 4, 4)
    assert_allclose(
        blocks["embedding"], net.features(torch.from_numpy(images)).detach().numpy(), rtol=1e-5, atol=1e-6
    )
    assert_array_equal(blocks["heatmap"].reshape(11, -1), maps_of(net, images, size=4))


@pytest.mark.parametrize(
    "n_logits, labels, names",
    [
        (3, [7, 3, 5], [3, 5, 7]),
        (2, [-1, 1], [-1, 1]),
        (2, [1.0, 0.0], [0, 1]),
        (2, [True, False], [0, 1]),
        # Labels that are not numbers are identified by their position.
        (3, ["ship", "cat", "dog"], [0, 1, 2]),
        (1, ["yes", "no"], [0, 1]),
        (1, [4, 2], [2, 4]),
        # y lacks a class that the net knows: numbers are taken for the logits' own, strings are nobody's.
        (3, [0, 2], [0, 1, 2]),
        (3, ["cat", "dog"], [-1, -1, -1]),
        (3, None, [0, 1, 2]),
    ],
)
def test_the_block_of_predictions_says_which_label_the_net_gives(images, n_logits, labels, names):
    net = SmallNet(n_logits).eval()
    images = np.concatenate([images, 3 * images, -2 * images])
    with torch.no_grad():
        logits = net(torch.from_numpy(images))
        # Every answer is given: the logits are centered.
        net.head.bias -= logits.median(0).values
        logits = net(torch.from_numpy(images))
    index = (logits[:, 0] > 0).long() if n_logits == 1 else logits.argmax(1)
    assert len(set(index.tolist())) == max(2, n_logits)
    y = None if labels is None else np.array(labels)[np.arange(33) % len(labels)]
    expected = np.array(names)[index]
    heatmaps = HeatmapTransformer(net, size=4, return_embedding=True, batch_size=5)
    embeddings = EmbeddingTransformer(net, return_predicted=True, batch_size=5)
    for transformer in (heatmaps, embeddings):
        found = transformer.fit_transform(images, y)["predicted"]
        assert found.dtype == np.int64
        assert_array_equal(found, expected)
        assert_array_equal(transformer.transform(images[:7])["predicted"], expected[:7])


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_blocks_become_columns_of_a_data_frame(images, container):
    library = pytest.importorskip(container)
    transformer = HeatmapTransformer(SmallNet(), size=2, return_embedding=True)
    blocks = transformer.fit_transform(images)
    frame = transformer.set_output(transform=container).transform(images)
    assert isinstance(frame, library.DataFrame)
    names = [*[f"embedding_{i}" for i in range(5)], *[f"heatmap_{i}" for i in range(12)], "predicted_0"]
    assert list(frame.columns) == names == list(transformer.get_feature_names_out())
    assert_array_equal(frame.to_numpy()[:, :5], blocks["embedding"])
    assert_array_equal(frame.to_numpy()[:, 5:-1], blocks["heatmap"].reshape(11, -1))
    assert_array_equal(frame["predicted_0"].to_numpy(), blocks["predicted"])


def test_a_double_precision_model_gives_double_precision_maps(images):
    blocks = maps_of(SmallNet().double(), images, return_embedding=True)
    assert blocks["heatmap"].dtype == blocks["embedding"].dtype == np.float64


def test_a_map_of_zeros_stays_zero(images):
    net = SmallNet()
    images[3] = 0
    # Without biases a black image gives logits of zero and no relevance at all.
    for module in net.modules():
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
    net.norm.running_mean.zero_()
    found = maps_of(net, images)
    assert not found[3].any()
    assert np.isfinite(found).all()
    assert_allclose(np.abs(np.delete(found, 3, 0)).max(1), 1)


def test_models_with_one_logit_have_two_classes(images):
    net = SmallNet(1).eval()
    transformer = HeatmapTransformer(net, size=None, normalize=None, evidence="signed").fit(
        images, ["yes", "no"] * 5 + ["no"]
    )
    assert transformer.n_logits_ == 1
    assert list(transformer.classes_) == ["no", "yes"]
    found = transformer.transform(images)
    predicted = (net(torch.from_numpy(images))[:, 0] > 0).long()
    assert_allclose(found.reshape(images.shape), raw_maps(net, images, predicted), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attribution", ["lrp", lambda model, images, targets: images])
def test_an_auxiliary_head_that_runs_last_is_not_taken_for_the_head(images, attribution):
    net = AuxiliaryNet().eval()
    transformer = HeatmapTransformer(net, attribution=attribution, return_embedding=True).fit(images)
    assert transformer.head_ == "head"
    expected = net.features(torch.from_numpy(images)).detach().numpy()
    assert_allclose(transformer.transform(images)["embedding"], expected, rtol=1e-5, atol=1e-6)
    embedding = EmbeddingTransformer(net).fit(images)
    assert embedding.head_ == "head"
    assert_allclose(embedding.transform(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_batch_size_changes_nothing(images, batch_size):
    expected = maps_of(SmallNet(), images)
    assert_allclose(maps_of(SmallNet(), images, batch_size=batch_size), expected, rtol=1e-4, atol=1e-5)


def test_tensors_memory_maps_and_other_types_of_images_are_taken(images, tmp_path):
    expected = maps_of(SmallNet(), images)
    assert_array_equal(maps_of(SmallNet(), torch.from_numpy(images)), expected)
    assert_array_equal(maps_of(SmallNet(), images.astype(np.float64)), expected)
    assert_array_equal(maps_of(SmallNet(), np.asfortranarray(images)), expected)
    np.save(tmp_path / "images.npy", images)
    assert_array_equal(maps_of(SmallNet(), np.load(tmp_path / "images.npy", mmap_mode="r")), expected)
    pixels = np.random.default_rng(0).integers(0, 255, (5, 3, 8, 8), dtype=np.uint8)
    assert_array_equal(maps_of(SmallNet(), pixels), maps_of(SmallNet(), pixels / np.float32(255)))


def test_vectors_are_images_too():
    X = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    transformer = HeatmapTransformer(FlatNet(6, 2), normalize=None).fit(X)
    found = transformer.transform(X)
    assert found.shape == (9, 6)
    assert transformer.heatmap_shape_ == (6,)


@pytest.mark.parametrize("transformer", [HeatmapTransformer, EmbeddingTransformer])
def test_verbose_transformers_show_a_bar_of_their_images_and_others_print_nothing(
    images, capsys, transformer
):
    transformer(SmallNet(), verbose=True, batch_size=2).fit_transform(images)
    shown = capsys.readouterr().err
    assert f"{transformer.__name__}: 100%" in shown
    assert "11/11" in shown
    transformer(SmallNet(), batch_size=2).fit_transform(images)
    assert capsys.readouterr() == ("", "")


# --- Bad input -----------------------------------------------------------------------------------------------------


def refused(error, match, net, images, y=None, **parameters):
    with pytest.raises(error, match=match):
        HeatmapTransformer(net, **parameters).fit(images, y)


def test_no_model_is_refused(images):
    refused(TypeError, r"`model` must be a torch\.nn\.Module, got NoneType", None, images)
    refused(TypeError, r"`model` must be a torch\.nn\.Module, got function", lambda x: x, images)


class Checked(SmallNet):
    def forward(self, x):
        assert x.shape[2] == 8, "Expected 8 rows"
        return super().forward(x)


class OfVectors(SmallNet):
    def forward(self, x):
        return self.head(x.mean((2, 3, 4)))


@pytest.mark.parametrize(
    "net, shape, match",
    [
        (SmallNet(), (1, 8, 8), r"RuntimeError: .* It fails in 'conv', Conv2d\(3, 4, .*number of channels"),
        (SmallNet(), (3, 12, 12), r"RuntimeError: .* It fails in 'hidden', Linear\(in_features=64, "),
        (Checked(), (3, 12, 12), "AssertionError: Expected 8 rows"),
        (OfVectors(), (3, 8, 8), "IndexError: Dimension out of range"),
    ],
)
@pytest.mark.parametrize("make", [HeatmapTransformer, EmbeddingTransformer])
def test_a_failure_of_the_model_names_the_shape_and_the_layer(make, net, shape, match):
    with pytest.raises(
        ValueError, match=rf"cannot process images of shape \({shape[0]}, {shape[1]}.*{match}"
    ):
        make(net).fit(np.zeros((2, *shape), np.float32))


def test_images_of_another_shape_than_in_fit_are_refused(images):
    transformer = HeatmapTransformer(SmallNet()).fit(images)
    with pytest.raises(ValueError, match=r"Image 0 has shape \(3, 10, 10\), but .* fitted on .*\(3, 8, 8\)"):
        transformer.transform(np.zeros((2, 3, 10, 10), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_pixels_that_are_not_finite_are_refused_with_their_images(images, value, as_tensor):
    for i in (2, 5, 9):
        images[i, 1, 4, 4] = value
    X = torch.from_numpy(images) if as_tensor else images
    refused(ValueError, r"3 image\(s\) contain NaN or infinity \(first: index 2, 5, 9\)", SmallNet(), X)
    X = X[[*range(2), *range(6, 9), 0, 1, 0, 9]]
    with pytest.raises(ValueError, match=r"1 image\(s\) contain NaN or infinity \(first: index 8\)"):
        HeatmapTransformer(SmallNet(), batch_size=7).fit(X[:4]).transform(X)


def test_labels_of_another_length_are_refused(images):
    refused(ValueError, r"inconsistent numbers of samples: \[11, 10\]", SmallNet(), images, np.zeros(10))


def test_no_images_are_refused():
    refused(ValueError, "0 sample", SmallNet(), np.zeros((0, 3, 8, 8)))
    refused(ValueError, "0 sample", SmallNet(), torch.zeros(0, 3, 8, 8))
    refused(ValueError, "0 sample", SmallNet(), [])
    refused(ValueError, "must have shape", SmallNet(), torch.zeros(8))


class Through(SmallNet):
    """A SmallNet with a step before it and one behind its features and logits."""

    def __init__(self, before=lambda x: x, after=lambda z, features: z, **parameters):
        super().__init__(**parameters)
        self.before, self.after = before, after

    def forward(self, x):
        features = self.features(self.before(x))
        return self.after(self.head(features), features)


@pytest.mark.parametrize(
    "output, match",
    [
        (lambda z, f: z.sum(), r"it returned \(\) for 8 images"),
        (lambda z, f: z.unsqueeze(2), r"it returned \(8, 2, 1\)"),
        (lambda z, f: (z.mean(), z), r"it returned \(\) .* a tuple of 2, and its first tensor was taken"),
        (lambda z, f: (f, z), r"shape \(8, 5\), is the input .* features, not logits.* return those first"),
        (lambda z, f: [f * 1, z], "not the output of a dense layer.* a list of 2, and its first tensor was"),
    ],
)
def test_outputs_that_are_not_logits_are_refused(images, output, match):
    net = Through(after=output)
    refused(ValueError, match, net, images, return_embedding=True)
    with pytest.raises(ValueError, match=match):
        EmbeddingTransformer(net).fit(images)


BATCH_DEPENDENT = {
    "depend on the images beside it": [lambda x: x - x.mean(0), lambda x: x - x.mean()],
    "random|change from call to call|active in evaluation mode": [
        lambda x: x + torch.rand_like(x),
        lambda x: nn.functional.dropout(x),
    ],
}


@pytest.mark.parametrize("match, step", [(m, step) for m, steps in BATCH_DEPENDENT.items() for step in steps])
@pytest.mark.parametrize("make", [HeatmapTransformer, EmbeddingTransformer])
@pytest.mark.parametrize("n_images, batch_size", [(11, 64), (11, 1), (1, 64)])
def test_an_image_whose_logits_depend_on_its_batch_or_on_chance_is_refused(
    images, make, match, step, n_images, batch_size
):
    with pytest.raises(NotImplementedError, match=match):
        make(Through(step), batch_size=batch_size).fit(images[:n_images])


def test_a_callable_attribution_does_not_hide_that_logits_depend_on_the_batch(images):
    def gradients(model, images, targets):
        return torch.autograd.grad(model(images).sum(), images)[0]

    net = Through(lambda x: x - x.mean(0))
    refused(NotImplementedError, "depend on the images beside it", net, images, attribution=gradients)


@pytest.mark.parametrize("make", [HeatmapTransformer, EmbeddingTransformer])
@pytest.mark.parametrize("n_logits", [1, 2])
def test_a_net_that_squeezes_its_logits_takes_a_last_batch_of_one_image(images, make, n_logits):
    squeezed = Through(after=lambda z, f: z.squeeze(), n_logits=n_logits)
    # 11 images are 5 batches of 2 and one of 1.
    found = make(squeezed, batch_size=2).fit(images)
    expected = make(SmallNet(n_logits)).fit(images).transform(images)
    np.testing.assert_allclose(found.transform(images), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.transform(images[:1]), expected[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_temperature_is_found_whatever_the_batch_size(images, batch_size):
    net = Through(after=lambda z, f: z / 2.5)
    found = EmbeddingTransformer(net, batch_size=batch_size).fit_transform(images)
    np.testing.assert_allclose(found, EmbeddingTransformer(SmallNet()).fit_transform(images), rtol=1e-5)
    with pytest.raises(ValueError, match=r"too few images \(2\) to see a scale"):
        EmbeddingTransformer(net).fit(images[:2])


@pytest.mark.parametrize(
    "y, match",
    [
        (np.eye(11, dtype=int), r"`y` has the shape \(11, 11\), but every image has one class"),
        (np.linspace(0, 1, 11), "continuous"),
        (np.r_[np.nan, np.zeros(10)], "NaN"),
        (np.array(["a", None] * 5 + ["b"], dtype=object), "5 of 11 labels in y are missing"),
    ],
)
@pytest.mark.parametrize("make", [HeatmapTransformer, EmbeddingTransformer])
def test_labels_that_are_not_one_class_per_image_are_refused_before_the_model_runs(images, make, y, match):
    SHOWN.clear()
    with pytest.raises(ValueError, match=match):
        make(CountingNet()).fit_transform(images, y)
    assert SHOWN == []


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.PredictionWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
def test_a_column_of_labels_is_read_as_labels(images):
    y = np.arange(11) % 2
    column, row = HeatmapTransformer(SmallNet()), HeatmapTransformer(SmallNet())
    assert_array_equal(column.fit_transform(images, y[:, None]), row.fit_transform(images, y))
    assert column.model_accuracy_ == row.model_accuracy_


def test_images_with_the_channels_last_that_the_model_cannot_take_are_told_how_to_transpose(images):
    refused(ValueError, r"X\.transpose\(0, 3, 1, 2\)", SmallNet(), images.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    "device, match",
    [("gpu", "'gpu' cannot be used here"), ("meta", "holds no values"), ("cuda:99", "cuda:99")],
)
def test_a_device_that_cannot_compute_is_refused(images, device, match):
    refused(ValueError, match, SmallNet(), images, device=device)


def test_a_model_without_values_is_refused(images):
    refused(ValueError, "tensors of the model .* are on the device 'meta'", SmallNet().to("meta"), images)


def test_images_that_require_gradients_are_taken(images):
    X = torch.from_numpy(images).requires_grad_()
    assert_array_equal(HeatmapTransformer(SmallNet()).fit_transform(X), maps_of(SmallNet(), images))


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid(), nn.Hardsigmoid()])
def test_models_that_end_in_probabilities_are_explained(images, end):
    refused(ValueError, r"returns probabilities.*`model\[:-1\]`", nn.Sequential(SmallNet(), end), images)


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_probabilities_are_refused_without_the_engine_too_unless_a_layer_is_named(images, end):
    net = nn.Sequential(SmallNet(), end)
    for transformer in (
        HeatmapTransformer(net, attribution=lambda model, x, targets: x),
        EmbeddingTransformer(net),
    ):
        with pytest.raises(ValueError, match=r"returns probabilities.*`model\[:-1\]`"):
            transformer.fit(images)
    assert EmbeddingTransformer(net, layer="0.head").fit_transform(images).shape == (len(images), 5)


def test_unknown_names_are_refused_with_the_known_ones(images):
    refused(
        ValueError, r"'attribution' .*must be a str among \{'lrp'\}", SmallNet(), images, attribution="lime"
    )
    refused(
        ValueError,
        r"Unknown composite 'gamma'.*'epsilon_gamma'",
        SmallNet(),
        images,
        attribution=LRP("gamma"),
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"size": 0},
        {"normalize": "l2"},
        {"batch_size": 0},
        {"n_jobs": 1.5},
        {"return_embedding": "yes"},
        {"load": "path"},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(images, parameters):
    (name,) = parameters
    refused(
        ValueError, f"The '{name}' parameter of HeatmapTransformer must be", SmallNet(), images, **parameters
    )


@pytest.mark.parametrize(
    "parameters",
    [{"initial_relevance": "zero"}, {"gamma": -1.0}, {"epsilon": -1.0}, {"target": -1}, {"target": "first"}],
    ids=str,
)
def test_settings_of_lrp_out_of_range_are_refused(images, parameters):
    (name,) = parameters
    message = f"The '{name}' parameter of LRP must be"
    refused(ValueError, message, SmallNet(), images, attribution=LRP(**parameters))


@pytest.mark.parametrize(
    "lrp", [LRP("epsilon_plus", gamma=1.0), LRP(Composite([(On(), Epsilon(0.01))]), gamma=1.0)]
)
def test_settings_that_a_composite_does_not_have_are_refused(images, lrp):
    refused(ValueError, "gamma would have no effect", SmallNet(), images, attribution=lrp)


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.PredictionWarning")
def test_a_grid_search_reaches_the_settings_of_the_default_attribution(images):
    y = np.arange(11) % 2
    pipe = Pipeline([("maps", HeatmapTransformer(SmallNet())), ("last", LogisticRegression())])
    grid = {"maps__attribution__gamma": [0.0, 0.5], "maps__attribution": ["lrp"]}
    search = GridSearchCV(pipe, grid, cv=2).fit(images, y)
    gamma = search.best_params_["maps__attribution__gamma"]
    expected = maps_of(SmallNet(), images, attribution=LRP(gamma=gamma))
    assert_array_equal(search.best_estimator_["maps"].transform(images), expected)
    assert pipe["maps"].attribution == "lrp"


def test_a_grid_search_reaches_the_settings_of_lrp(images):
    transformer = HeatmapTransformer(SmallNet(), attribution=LRP(), size=None)
    assert_array_equal(transformer.fit_transform(images), maps_of(SmallNet(), images, size=None))
    found = clone(transformer).set_params(attribution__gamma=0.5, attribution__target=1).fit_transform(images)
    assert_array_equal(found, maps_of(SmallNet(), images, attribution=LRP(gamma=0.5, target=1), size=None))
    assert not np.allclose(found, transformer.fit_transform(images), atol=1e-3)


@pytest.mark.parametrize(
    "target, match",
    [
        (2, "target=2 is out of range: the model has 2 classes"),
        (lambda z: z.argmax(1) + 2, "`target` must return one class index from 0 to 1 for each of 8 images"),
        (lambda z: torch.zeros(3).long(), r"must return one class index .* got shape \(3,\)"),
    ],
)
def test_a_target_out_of_range_is_refused(images, target, match):
    refused(ValueError, match, SmallNet(), images, attribution=LRP(target=target))


def test_a_model_without_a_dense_head_has_no_embedding_unless_a_layer_is_named(images):
    # As in SqueezeNet, the logits are the mean of what a ReLU leaves.
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert maps_of(net, images).shape == (11, 192)
    match = "not the output of a dense layer.*layer=.* before its last layer, '0'"
    refused(ValueError, match, net, images, return_embedding=True)
    with pytest.raises(ValueError, match=match):
        EmbeddingTransformer(net).fit(images)
    assert EmbeddingTransformer(net, layer="2").fit_transform(images).shape == (11, 2)


def test_what_cannot_be_attributed_is_refused_in_fit(images):
    class Odd(SmallNet):
        def forward(self, x):
            return super().forward(torch.exp(x))

    refused(
        UnsupportedOperationError, r"'exp' has no relevance rule in 'Odd' \(test_heatmaps\.py", Odd(), images
    )


def test_a_model_that_cannot_be_copied_is_refused(images):
    class Handle:
        def __deepcopy__(self, memo):
            raise RuntimeError("open file")

    net = SmallNet()
    net.handle = Handle()
    refused(TypeError, r"\(SmallNet\) cannot be copied \(open file\).*`__deepcopy__`", net, images)


def test_heatmaps_that_overflow_are_refused(images):
    net = SmallNet()
    net.head.weight.data.fill_(3e38)
    refused(ValueError, "NaN or infinite logits for 8 of 8 images", net, images)


def test_transform_before_fit_is_refused(images):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        HeatmapTransformer(SmallNet()).transform(images)


def test_maps_of_one_pixel_are_the_mean_of_all_pixels(images):
    full = maps_of(SmallNet(), images, size=None, normalize=None).reshape(11, 3, -1)
    one = maps_of(SmallNet(), images, size=1, normalize=None)
    np.testing.assert_allclose(one, full.mean(2), rtol=1e-4, atol=1e-7)
