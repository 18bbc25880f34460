"""Which class each logit stands for, and how accurate the frozen net is if that is so."""

import types

import numpy as np
import pytest
import torch
from torch import nn

from skexmap import (
    EmbeddingTransformer,
    ExMapClassifier,
    HeatmapTransformer,
    export_model,
    make_exmap_pipeline,
)
from skexmap.cluster import SilhouetteKMeans
from skexmap.exceptions import PredictionWarning

NAMES = ["dog", "cat", "bird"]


class Brightest(nn.Module):
    """Predicts the brightest channel, which it does without training."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(3))
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(x.mean((2, 3)).relu())


@pytest.fixture
def animals():
    """Return images, whose brightest channel is their class in the order of `NAMES`, and names as labels."""
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=90)
    X = rng.random((90, 3, 6, 6)).astype(np.float32)
    X[np.arange(90), codes] += 1
    return X, np.array(NAMES)[codes]


def named_net():
    net = Brightest()
    net.config = types.SimpleNamespace(id2label=dict(enumerate(NAMES)))
    return net


@pytest.mark.parametrize("make", [HeatmapTransformer, EmbeddingTransformer])
def test_classes_are_taken_in_the_order_given(make, animals):
    transformer = make(Brightest(), classes=NAMES)
    transformer.set_params(**{"return_embedding" if make is HeatmapTransformer else "return_predicted": True})
    blocks = transformer.fit_transform(*animals)
    assert transformer.classes_.tolist() == NAMES
    assert transformer.model_accuracy_ == 1
    # The block is a position among the sorted labels.
    np.testing.assert_array_equal(blocks["predicted"], np.unique(animals[1], return_inverse=True)[1])


def test_the_accuracy_of_a_fit_before_is_dropped(animals):
    transformer = EmbeddingTransformer(Brightest(), classes=NAMES)
    transformer.fit_transform(*animals)
    assert not hasattr(transformer.fit(animals[0][:10]), "model_accuracy_")


def test_the_names_in_the_configuration_of_a_model_are_read(animals):
    transformer = HeatmapTransformer(named_net(), return_embedding=True)
    transformer.fit_transform(*animals)
    assert transformer.classes_.tolist() == NAMES
    assert transformer.model_accuracy_ == 1


@pytest.mark.parametrize(
    "id2label, labels",
    [
        # As in a config.json.
        ({"0": "dog", "1": "cat", "2": "bird"}, NAMES),
        ({0: "Dog", 1: "CAT", 2: "bird"}, NAMES),
        (dict(enumerate(NAMES)), ["Dog", "Cat", "Bird"]),
    ],
)
def test_names_with_keys_of_text_or_in_other_capitals_are_read(animals, id2label, labels):
    net = Brightest()
    net.config = types.SimpleNamespace(id2label=id2label)
    y = np.array(labels)[animals[0].mean((2, 3)).argmax(1)]
    transformer = HeatmapTransformer(net, return_embedding=True)
    transformer.fit_transform(animals[0], y)
    assert transformer.classes_.tolist() == labels
    assert transformer.model_accuracy_ == 1


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.ClusteringWarning")
@pytest.mark.parametrize("labels", [[2, 0, 1], [2.0, 0.0, 1.0]])
def test_names_that_are_numbers_are_classes_of_the_type_of_the_labels(animals, labels):
    net, X = Brightest(), animals[0]
    net.config = types.SimpleNamespace(id2label={0: "2", 1: "0", 2: "1"})
    codes = X.mean((2, 3)).argmax(1)
    y = np.array(labels)[codes]
    transformer = EmbeddingTransformer(net, return_predicted=True)
    assert transformer.fit_transform(X, y)["predicted"].tolist() == y.tolist()
    assert transformer.model_accuracy_ == 1
    # A class without an image has its number, too.
    assert transformer.fit(X[codes > 0], y[codes > 0]).classes_.tolist() == [2, 0, 1]
    clusterer = SilhouetteKMeans(max_clusters=3, random_state=0)
    classifier = ExMapClassifier(net, clusterer=clusterer, random_state=0).fit(X, y)
    with torch.no_grad():
        logits = export_model(classifier)(torch.from_numpy(X))
    assert classifier.predict(X).tolist() == np.array(labels)[logits.argmax(1)].tolist()


def test_names_that_differ_in_capitals_only_are_kept_apart(animals):
    net = Brightest()
    net.config = types.SimpleNamespace(id2label={0: "dog", 1: "Dog", 2: "cat"})
    y = np.array(["dog", "Dog", "cat"])[animals[0].mean((2, 3)).argmax(1)]
    assert HeatmapTransformer(net).fit(animals[0], y).classes_.tolist() == ["dog", "Dog", "cat"]


def test_names_that_are_not_the_labels_are_not_used_as_classes(animals):
    codes = np.unique(animals[1], return_inverse=True)[1]
    assert HeatmapTransformer(named_net()).fit(animals[0], codes).classes_.tolist() == [0, 1, 2]


def test_a_wrong_order_is_noticed_and_the_right_one_named(animals):
    with pytest.warns(
        PredictionWarning, match=r"\['dog', 'cat', 'bird'\], in this order, it is right for 100.0%"
    ):
        HeatmapTransformer(Brightest(), return_embedding=True).fit_transform(*animals)


@pytest.mark.parametrize("subtracted, is_hinted", [(0, True), (0.75, False)])
def test_a_net_that_no_order_explains_is_noticed_and_so_are_images_without_negative_pixels(
    animals, subtracted, is_hinted
):
    X, _ = animals
    y = np.where(np.random.default_rng(0).random(90) < 0.95, "cat", "dog")
    transformer = HeatmapTransformer(Brightest(), return_embedding=True, classes=NAMES)
    with pytest.warns(
        PredictionWarning, match="most frequent class alone .* Check that its weights"
    ) as record:
        transformer.fit_transform(X - np.float32(subtracted), y)
    (warning,) = record
    assert ("No pixel of the first images is negative" in str(warning.message)) == is_hinted


@pytest.mark.parametrize(
    "classes, message",
    [
        (["cat", "dog"], "must name the class of each of 3 logits once"),
        (["cat", "dog", "cat"], "must name the class of each of 3 logits once"),
        (["cat", "dog", "cow"], r"1 labels in y \(\['bird'\]\) are not among `classes`"),
    ],
)
def test_classes_that_cannot_be_right_are_refused(classes, message, animals):
    with pytest.raises(ValueError, match=message):
        HeatmapTransformer(Brightest(), classes=classes).fit(*animals)


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.ClusteringWarning")
def test_the_exported_module_keeps_the_order_of_its_logits(animals):
    X, y = animals
    clusterer = SilhouetteKMeans(max_clusters=3, random_state=0)
    classifier = ExMapClassifier(Brightest(), clusterer=clusterer, classes=NAMES, random_state=0).fit(X, y)
    with torch.no_grad():
        logits = export_model(classifier)(torch.from_numpy(X))
    np.testing.assert_array_equal(np.array(NAMES)[logits.argmax(1)], classifier.predict(X))
    pipe = make_exmap_pipeline(Brightest(), clusterer=clusterer, classes=NAMES, random_state=0).fit(X, y)
    np.testing.assert_array_equal(pipe.predict(X), classifier.predict(X))
