"""EmbeddingTransformer: the input of the head, or what a named layer returns."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from small_nets import SmallNet
from torch import nn

from skexmap.features import EmbeddingTransformer


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(11, 3, 8, 8)).astype(np.float32)


def test_the_embedding_is_the_input_of_the_head(images):
    net = SmallNet().eval()
    transformer = EmbeddingTransformer(net, batch_size=4).fit(images)
    assert transformer.head_ == "head"
    assert transformer.n_embedding_features_ == 5
    assert list(transformer.get_feature_names_out()) == [f"embedding_{i}" for i in range(5)]
    expected = net.features(torch.from_numpy(images)).detach().numpy()
    assert_allclose(transformer.transform(images), expected, rtol=1e-5, atol=1e-6)


def test_a_dense_layer_without_a_name_has_an_embedding_and_predictions(images):
    class Functional(SmallNet):
        def forward(self, x):
            # The weights are made on the fly: no module owns the dense layer.
            return nn.functional.linear(self.features(x), self.head.weight * 1.0, self.head.bias)

    net = Functional().eval()
    transformer = EmbeddingTransformer(net, return_predicted=True).fit(images)
    assert transformer.head_ is None
    blocks = transformer.transform(images)
    assert_allclose(blocks["embedding"], EmbeddingTransformer(SmallNet()).fit_transform(images), rtol=1e-5)
    assert_array_equal(blocks["predicted"], net(torch.from_numpy(images)).argmax(1))


def test_the_head_applied_to_the_embedding_gives_the_logits(images):
    net = SmallNet().eval()
    embedding = EmbeddingTransformer(net).fit_transform(images)
    with torch.no_grad():
        assert_allclose(
            net.head(torch.from_numpy(embedding)), net(torch.from_numpy(images)), rtol=1e-5, atol=1e-6
        )


def test_a_dense_layer_stands_for_its_input_and_another_module_for_its_output(images):
    net = SmallNet().eval()
    x = torch.from_numpy(images)
    with torch.no_grad():
        convolved = net.conv(x)
        pooled = net.pool((y := torch.relu(net.norm(convolved))) + net.again(y)).flatten(1)
    for layer, expected in (("hidden", pooled), ("conv", convolved.flatten(1)), ("pool", pooled)):
        found = EmbeddingTransformer(net, layer=layer).fit(images)
        assert found.head_ is None
        assert_allclose(found.transform(images), expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_layer_is_refused_with_the_names_there_are(images):
    with pytest.raises(ValueError, match=r"top-level modules are \['conv', 'norm'"):
        EmbeddingTransformer(SmallNet(), layer="backbone").fit(images)


def test_a_layer_that_does_not_run_is_refused(images):
    net = SmallNet()
    net.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="'spare' did not run"):
        EmbeddingTransformer(net, layer="spare").fit(images)


def test_of_a_layer_that_runs_twice_the_last_output_is_the_embedding(images):
    class Twice(SmallNet):
        def __init__(self):
            super().__init__()
            self.shared = nn.Tanh()

        def forward(self, x):
            return super().forward(self.shared(2 * self.shared(x)))

    expected = np.tanh(2 * np.tanh(images)).reshape(len(images), -1)
    found = EmbeddingTransformer(Twice(), layer="shared").fit_transform(images)
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_flattening_view_behind_the_head_does_not_hide_it(images):
    class Viewed(SmallNet):
        def forward(self, x):
            return super().forward(x).view(len(x), -1, 1).squeeze(2)

    assert EmbeddingTransformer(Viewed()).fit(images).head_ == "head"


def test_a_net_with_any_operation_has_an_embedding(images):
    class Odd(SmallNet):
        def forward(self, x):
            return super().forward(torch.exp(-x.abs()))

    net = Odd().eval()
    expected = net.features(torch.exp(-torch.from_numpy(images).abs())).detach()
    assert_allclose(EmbeddingTransformer(net).fit_transform(images), expected, rtol=1e-5, atol=1e-6)
