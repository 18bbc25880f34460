"""Which output of a model are its logits."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from lrp_nets import check
from torch import nn

from skexmap import HeatmapTransformer

IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Output = namedtuple("Output", ["features", "logits"])
Pair = namedtuple("Pair", ["a", "b"])


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
        lambda features, logits: ((logits, features), 1),
    ],
    ids=["namedtuple", "dataclass", "dict", "dict of one tensor", "tuple", "list", "nested tuple"],
)
def test_the_logits_are_found_among_the_outputs(output):
    expected = maps_of(Returns(lambda features, logits: logits))
    found = maps_of(Returns(output))
    np.testing.assert_array_equal(found["heatmap"], expected["heatmap"])
    np.testing.assert_array_equal(found["embedding"], expected["embedding"])


@pytest.mark.parametrize(
    "output, error, message",
    [
        (lambda y, z: {"a": y, "b": z}, TypeError, r"has the tensors \['a', 'b'\]"),
        (lambda y, z: Pair(y, z), TypeError, r"has the tensors \['a', 'b'\]"),
        (lambda y, z: "logits", TypeError, "returned str, not logits"),
        (lambda y, z: None, TypeError, "returned NoneType, not logits"),
        (lambda y, z: (), TypeError, "not logits: it must return a tensor of shape"),
        (lambda y, z: z.sum(), ValueError, r"it returned \(\) for 5 images"),
        (lambda y, z: z[:2], ValueError, r"it returned \(2, 2\) for 5 images"),
        (lambda y, z: z * torch.inf, ValueError, "NaN or infinite logits for 5 of 5 images"),
    ],
)
def test_an_output_that_is_not_surely_the_logits_is_refused(output, error, message):
    with pytest.raises(error, match=message):
        check(Returns(output), IMAGES)


def test_a_single_logit_may_be_squeezed():
    expected = maps_of(Returns(lambda features, logits: logits, n_logits=1))
    found = maps_of(Returns(lambda features, logits: logits.squeeze(1), n_logits=1))
    np.testing.assert_array_equal(found["heatmap"], expected["heatmap"])
    np.testing.assert_array_equal(found["embedding"], expected["embedding"])
