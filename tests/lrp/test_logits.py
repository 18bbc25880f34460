"""Which output of a model are its logits."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from skexmap import HeatmapTransformer

IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Output = namedtuple("Output", ["features", "logits"])


@dataclass
class Result:
    features: torch.Tensor
    logits: torch.Tensor


class Returns(nn.Module):
    """A net with a hidden layer, whose output is made by a function of its features and logits."""

    def __init__(self, output, n_logits=2):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(48, 6), nn.Linear(6, n_logits)
        self.output = output

    def forward(self, x):
        features = self.body(x.flatten(1)).relu()
        return self.output(features, self.head(features))


def maps_of(net):
    return HeatmapTransformer(net, size=None, return_embedding=True).fit_transform(IMAGES)


@pytest.mark.parametrize(
    "output",
    [
        Output,
        Result,
        lambda features, logits: {"features": features, "logits": logits},
        lambda features, logits: {"scores": logits},
        lambda features, logits: (logits, features),
        lambda features, logits: [logits],
    ],
    ids=["namedtuple", "dataclass", "dict", "dict of one tensor", "tuple", "list"],
)
def test_the_logits_are_found_among_the_outputs(output):
    expected = maps_of(Returns(lambda features, logits: logits))
    found = maps_of(Returns(output))
    np.testing.assert_array_equal(found["heatmap"], expected["heatmap"])
    np.testing.assert_array_equal(found["embedding"], expected["embedding"])


@pytest.mark.parametrize(
    "output, message",
    [
        (lambda features, logits: {"a": features, "b": logits}, r"has the tensors \['a', 'b'\]"),
        (
            lambda features, logits: namedtuple("Pair", "a b")(features, logits),
            r"has the tensors \['a', 'b'\]",
        ),
        (lambda features, logits: "logits", "returned str, not logits"),
    ],
)
def test_an_output_of_which_no_tensor_is_surely_the_logits_is_refused(output, message):
    with pytest.raises(TypeError, match=message):
        maps_of(Returns(output))


def test_a_single_logit_may_be_squeezed():
    expected = maps_of(Returns(lambda features, logits: logits, n_logits=1))
    found = maps_of(Returns(lambda features, logits: logits.squeeze(1), n_logits=1))
    np.testing.assert_array_equal(found["heatmap"], expected["heatmap"])
    np.testing.assert_array_equal(found["embedding"], expected["embedding"])
