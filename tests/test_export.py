"""The exported module decides as the classifier does, for every kind of head."""

import io
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import KMeans
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skexmap import (
    DFRClassifier,
    EmbeddingTransformer,
    ExMapClassifier,
    HeatmapTransformer,
    PseudoGroupLabeler,
    export_model,
    make_exmap_pipeline,
)
from skexmap.export import ABSENT_CLASS_LOGIT

pytestmark = pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
DFR = DFRClassifier(n_retrains=2, min_group_size=1, random_state=0)


class Net(torch.nn.Module):
    """A small convolutional net with a head of any width."""

    def __init__(self, n_logits, *, bias=True, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2)
        )
        self.fc = torch.nn.Linear(24, n_logits, bias=bias)
        self.to(dtype)

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


def make_images(labels, n=90):
    rng = np.random.default_rng(0)
    y = np.asarray(labels)[np.arange(n) % len(labels)]
    X = rng.uniform(size=(n, 3, 8, 8)).astype(np.float32)
    X[np.arange(n), np.arange(n) % len(labels) % 3, :4] += 0.6
    X[np.arange(n) % 4 == 0, :, 4:] += 1
    return X, y


def fit(net, X, y):
    return ExMapClassifier(
        net,
        heatmaps=HeatmapTransformer(size=4),
        clusterer=PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), merge_alpha=None),
        strategy=DFR,
    ).fit(X, y)


def logits_of(model, X):
    with torch.no_grad():
        return model(torch.as_tensor(X)).numpy()


def test_one_logit_is_the_decision_function():
    X, y = make_images(["cat", "dog"])
    classifier = fit(Net(1), X, y)
    logits = logits_of(export_model(classifier), X)
    assert logits.shape == (90, 1)
    assert_allclose(logits[:, 0], classifier.decision_function(X), atol=1e-5)


def test_the_difference_of_two_logits_is_the_decision_function_and_their_softmax_predict_proba():
    X, y = make_images(["cat", "dog"])
    classifier = fit(Net(2), X, y)
    logits = logits_of(export_model(classifier), X)
    assert_allclose(logits[:, 1] - logits[:, 0], classifier.decision_function(X), atol=1e-5)
    softmax = torch.softmax(torch.as_tensor(logits), 1).numpy()
    assert_allclose(softmax, classifier.predict_proba(X), atol=1e-5)


def test_each_of_more_logits_is_a_column_of_the_decision_function():
    X, y = make_images([3, 5, 8])
    classifier = fit(Net(3), X, y)
    logits = logits_of(export_model(classifier), X)
    assert_allclose(logits, classifier.decision_function(X), atol=1e-5)
    assert_array_equal(classifier.classes_[logits.argmax(axis=1)], classifier.predict(X))
    # One-versus-rest probabilities are another thing than the softmax, as documented.
    assert not np.allclose(
        torch.softmax(torch.as_tensor(logits), 1).numpy(), classifier.predict_proba(X), atol=1e-2
    )


@pytest.mark.parametrize("labels", [[0, 2, 3], [1, 3]])
def test_a_class_that_y_lacked_is_never_predicted_and_keeps_its_row(labels):
    X, y = make_images(labels)
    classifier = fit(Net(4), X, y)
    model = export_model(classifier)
    logits = logits_of(model, X)
    absent = [k for k in range(4) if k not in labels]
    assert (model.fc.weight[absent] == 0).all()
    assert (model.fc.bias[absent] == ABSENT_CLASS_LOGIT).all()
    assert_array_equal(logits.argmax(axis=1), classifier.predict(X))
    scores = classifier.decision_function(X)
    if len(labels) == 2:
        assert_allclose(logits[:, 3] - logits[:, 1], scores, atol=1e-5)
    else:
        assert_allclose(logits[:, labels], scores, atol=1e-5)


def test_classes_say_which_logit_is_which_label():
    X, y = make_images(["b", "c"])
    classifier = fit(Net(3), X, y)
    with pytest.raises(ValueError, match=r"2 classes .*'b', 'c'.* Pass `classes=`"):
        export_model(classifier)
    logits = logits_of(export_model(classifier, classes=["c", "a", "b"]), X)
    assert_array_equal(np.array(["c", "a", "b"])[logits.argmax(axis=1)], classifier.predict(X))
    one = fit(Net(1), X, y)
    flipped = logits_of(export_model(one, classes=["c", "b"]), X)
    assert_allclose(flipped[:, 0], -one.decision_function(X), atol=1e-5)


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "b"], ["a", "b", "c", "d"]])
def test_classes_of_another_number_or_twice_the_same_are_refused(classes):
    X, y = make_images(["b", "a"])
    with pytest.raises(ValueError, match="3 logits"):
        export_model(fit(Net(3), X, y), classes=classes)


@pytest.mark.parametrize("bias", [True, False])
def test_the_state_dict_loads_into_the_original_architecture(bias):
    X, y = make_images([0, 1])
    net = Net(2, bias=bias)
    before = {name: values.clone() for name, values in net.state_dict().items()}
    classifier = fit(net, X, y)
    model = export_model(classifier)
    fresh = Net(2)
    fresh.load_state_dict(model.state_dict())
    assert_allclose(logits_of(fresh.eval(), X), logits_of(model, X), atol=1e-6)
    # The user's model stays as it was.
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(values, before[name]) for name, values in net.state_dict().items())
    assert not model.training


def test_the_weights_keep_their_type_and_whether_they_train():
    X, y = make_images([0, 1])
    net = Net(2, dtype=torch.float64)
    net.fc.weight.requires_grad_(False)
    X = X.astype(np.float64)
    classifier = fit(net, X, y)
    model = export_model(classifier)
    assert model.fc.weight.dtype == torch.float64
    assert not model.fc.weight.requires_grad
    assert model.fc.bias.requires_grad
    logits = logits_of(model, X)
    assert_allclose(logits[:, 1] - logits[:, 0], classifier.decision_function(X), atol=1e-12)


def test_pipelines_and_searches_are_exported_too():
    X, y = make_images([0, 1])
    net = Net(2)
    two = PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), merge_alpha=None)
    pipe = make_exmap_pipeline(net, heatmaps=HeatmapTransformer(size=4), clusterer=two, strategy=DFR)
    plain = make_pipeline(EmbeddingTransformer(net), DFR).fit(X, y)
    search = GridSearchCV(
        make_pipeline(EmbeddingTransformer(net), DFR), {"dfrclassifier__C": [1.0, 0.1]}, cv=2
    )
    inside = fit(net, X, y).set_params(strategy=GridSearchCV(DFR, {"C": [1.0, 0.1]}, cv=2)).fit(X, y)
    for fitted in (plain, search.fit(X, y), inside):
        logits = logits_of(export_model(fitted), X)
        assert_allclose(logits[:, 1] - logits[:, 0], fitted.decision_function(X), atol=1e-5)
    logits = logits_of(export_model(pipe.fit(X, y)), X)
    assert_allclose(logits[:, 1] - logits[:, 0], pipe.decision_function(X), atol=1e-5)
    with pytest.raises(ValueError, match="return_embedding=True"):
        export_model(pipe.set_params(heatmaps__return_embedding=False).fit(X, y))


def test_a_step_between_embedding_and_last_layer_is_refused():
    """Its effect would be lost without a word."""
    X, y = make_images([0, 1])
    pipe = make_pipeline(EmbeddingTransformer(Net(2)), StandardScaler(), DFR).fit(X, y)
    with pytest.raises(ValueError, match=r"'standardscaler' \(StandardScaler\)"):
        export_model(pipe)
    pipe.set_params(standardscaler="passthrough").fit(X, y)
    logits = logits_of(export_model(pipe), X)
    assert_allclose(logits[:, 1] - logits[:, 0], pipe.decision_function(X), atol=1e-5)


def test_a_weight_tied_to_another_layers_leaves_that_one_alone():
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6)
    )
    net[3].weight = net[1].weight
    X = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    y = np.arange(60) % 6
    pipe = make_pipeline(EmbeddingTransformer(net), DFR).fit(X, y)
    model = export_model(pipe)
    assert torch.equal(model[1].weight, net[1].weight)
    assert_allclose(logits_of(model, X), pipe.decision_function(X), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "parametrize",
    [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.weight_norm],
    ids=["new", "old"],
)
def test_a_weight_that_is_computed_from_others_is_refused(parametrize):
    X, y = make_images([0, 1])
    net = Net(2)
    parametrize(net.fc)
    with torch.no_grad():
        net(torch.as_tensor(X[:2]))
    pipe = make_pipeline(EmbeddingTransformer(net), DFR).fit(X, y)
    with pytest.raises(ValueError, match="computed from others"):
        export_model(pipe)


def test_what_cannot_be_exported_is_named():
    X, y = make_images([0, 1])
    net = Net(2)
    with pytest.raises(ValueError, match=r"KNeighborsClassifier has no `coef_`"):
        export_model(make_pipeline(EmbeddingTransformer(net), KNeighborsClassifier()).fit(X, y))
    with pytest.raises(ValueError, match="There is no layer to put the retrained weights into"):
        export_model(make_pipeline(EmbeddingTransformer(net, layer="features"), DFR).fit(X, y))
    with pytest.raises(ValueError, match="got DFRClassifier"):
        export_model(DFRClassifier(n_retrains=1).fit(X.reshape(90, -1), y))


class OtherHead(Net):
    """A net whose logits are made by a function of its own."""

    def __init__(self, logits, n_logits=2):
        super().__init__(n_logits)
        self.other = torch.nn.Linear(24, n_logits)
        self.conv = torch.nn.Conv2d(6, n_logits, 1)
        self.logits = logits

    def forward(self, x):
        return self.logits(self, self.features(x))


def added_in_place(net, x):
    logits = net.fc(x.flatten(1))
    logits += torch.tensor([5.0, -5.0])
    return logits


def of_tokens(x):
    # Shape (n, 24, 4 tokens) -> (n, 4 tokens, 24).
    return x.flatten(1)[:, :, None].mul(torch.arange(1.0, 5)).transpose(1, 2)


# What makes the logits of the pooled features, of shape (n, 6, 2, 2), the number of logits, and what the head reads.
HEADS = {
    "convolution": (
        lambda net, x: net.conv(x.mean((2, 3), keepdim=True)).flatten(1),
        2,
        lambda x: x.mean((2, 3)),
    ),
    "convolution before the pooling": (lambda net, x: net.conv(x).mean((2, 3)), 2, lambda x: x.mean((2, 3))),
    "two heads of the same features": (
        lambda net, x: (net.fc(x := x.flatten(1)) + net.other(x)) / 2,
        2,
        lambda x: x.flatten(1),
    ),
    "sum of two heads of different features": (
        lambda net, x: net.fc(x.flatten(1)) + net.other(x.flatten(1).tanh()),
        2,
        lambda x: torch.cat([x.flatten(1), x.flatten(1).tanh()], 1),
    ),
    "temperature": (lambda net, x: net.fc(x.flatten(1)) / 1.5, 2, lambda x: x.flatten(1)),
    "negative scale and one logit": (lambda net, x: -3 * net.fc(x.flatten(1)), 1, lambda x: x.flatten(1)),
    "one squeezed logit": (lambda net, x: net.fc(x.flatten(1)).squeeze(1), 1, lambda x: x.flatten(1)),
    "shifted in place": (added_in_place, 2, lambda x: x.flatten(1)),
    "a single token": (lambda net, x: net.fc(x.flatten(1)[:, None]).squeeze(1), 2, lambda x: x.flatten(1)),
    "the first of all tokens": (lambda net, x: net.fc(of_tokens(x))[:, 0], 2, lambda x: of_tokens(x)[:, 0]),
    "the mean of all tokens": (
        lambda net, x: net.fc(of_tokens(x)).mean(1),
        2,
        lambda x: of_tokens(x).mean(1),
    ),
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_exported_module_decides_as_the_pipeline_whatever_the_head(kind):
    logits, n_logits, read = HEADS[kind]
    X, y = make_images([0, 1])
    net = OtherHead(logits, n_logits).eval()
    pipe = make_pipeline(EmbeddingTransformer(net, batch_size=7), DFR).fit(X, y)
    with torch.no_grad():
        expected = read(net.features(torch.as_tensor(X))).numpy()
    assert_allclose(pipe[0].transform(X), expected, rtol=1e-5, atol=1e-6)
    blocks = HeatmapTransformer(net, return_embedding=True, size=4).fit_transform(X, y)
    assert_allclose(blocks["embedding"], expected, rtol=1e-5, atol=1e-6)
    scores = logits_of(export_model(pipe), X)
    scores = scores[:, 1] - scores[:, 0] if n_logits == 2 else scores.ravel()
    assert_allclose(scores, pipe.decision_function(X), atol=1e-4)


# Heads whose weights do more than make the logits.
SHARED = {
    "one head on two tokens": lambda net, x: net.fc(x.flatten(1)) + net.fc(x.flatten(1).tanh()),
    "mean of one head on two tokens": lambda net, x: (net.fc(x.flatten(1)) + net.fc(x.flatten(1).tanh())) / 2,
    "weights as a gate": lambda net, x: net.fc((x := x.flatten(1)) * torch.sigmoid(x @ net.fc.weight[:1].T)),
    "weights as a scale": lambda net, x: net.fc(x.flatten(1) * net.fc.weight.norm()),
    "bias as a scale": lambda net, x: net.fc(x.flatten(1)) * net.fc.bias[0],
    "layer before": lambda net, x: net.fc((x := x.flatten(1)) * torch.sigmoid(net.fc(x)[:, :1])),
}


@pytest.mark.parametrize("kind", SHARED)
def test_a_head_whose_weights_are_used_elsewhere_too_is_refused(kind):
    X, y = make_images([0, 1])
    net = OtherHead(SHARED[kind]).eval()
    before = net.fc.weight.clone()
    pipe = make_pipeline(EmbeddingTransformer(net), DFR).fit(X, y)
    assert torch.equal(net.fc.weight, before)
    with pytest.raises(
        ValueError, match=r"uses the weights of its last layer \('fc'.*more than once, or elsewhere"
    ):
        export_model(pipe)


def test_logits_that_are_not_linear_in_the_output_of_the_last_layer_have_no_embedding():
    X, y = make_images([0, 1])
    for bend in (torch.tanh, lambda z: z - z.logsumexp(1, keepdim=True), lambda z: z.clamp(min=-0.5)):
        net = OtherHead(lambda net, x, bend=bend: bend(3 * net.fc(x.flatten(1))))
        with pytest.raises(ValueError, match=r"not the output of a dense layer|their logarithms"):
            EmbeddingTransformer(net).fit(X, y)


def test_a_head_that_bends_beyond_the_first_images_is_noticed():
    X, y = make_images([0, 1])
    fitted = EmbeddingTransformer(OtherHead(lambda net, x: net.fc(x.flatten(1)).clamp(-2, 2))).fit(X, y)
    with pytest.raises(ValueError, match="not the output of a dense layer"):
        fitted.transform(100 * X)


def test_a_logit_that_the_model_overwrites_cannot_be_exported():
    X, y = make_images([0, 2])
    mask = torch.tensor([1.0, 0, 1])
    net = OtherHead(lambda net, x: net.fc(x.flatten(1)) * mask - 1e4 * (1 - mask), 3)
    pipe = make_pipeline(EmbeddingTransformer(net, classes=[0, 1, 2]), DFR).fit(X, y)
    with pytest.raises(ValueError, match="1 of 3 logits of the model are the same for all images"):
        export_model(pipe)


def test_a_compiled_model_is_exported_as_its_original():
    X, y = make_images([0, 1])
    pipe = make_pipeline(EmbeddingTransformer(torch.compile(Net(2))), DFR).fit(X, y)
    model = export_model(pipe)
    assert type(model) is Net
    logits = logits_of(model, X)
    assert_allclose(logits[:, 1] - logits[:, 0], pipe.decision_function(X), atol=1e-5)


class TestDeployment:
    @pytest.fixture
    def exported(self):
        X, y = make_images([0, 1])
        model = export_model(fit(Net(2), X, y))
        return model, torch.as_tensor(X), logits_of(model, X)

    def test_torch_save_and_load(self, exported):
        model, X, logits = exported
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        fresh = Net(2).eval()
        fresh.load_state_dict(torch.load(file, weights_only=True))
        assert_array_equal(logits_of(fresh, X), logits)

    def test_torch_export_for_any_batch_size(self, exported):
        model, X, logits = exported
        batch = torch.export.Dim("batch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (X[:4],), dynamic_shapes=({0: batch},))
        assert_allclose(program.module()(X).detach().numpy(), logits, atol=1e-6)

    def test_torchscript_by_tracing(self, exported):
        model, X, logits = exported
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(model, X[:4])
            file = io.BytesIO()
            torch.jit.save(traced, file)
            file.seek(0)
            loaded = torch.jit.load(file)
        assert_allclose(logits_of(loaded, X), logits, atol=1e-6)

    def test_onnx(self, exported, tmp_path):
        pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
        runtime = pytest.importorskip("onnxruntime")
        model, X, logits = exported
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (X[:4],),
                tmp_path / "model.onnx",
                input_names=["images"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
            )
        session = runtime.InferenceSession(tmp_path / "model.onnx")
        assert_allclose(session.run(None, {"images": X.numpy()})[0], logits, atol=1e-5)
