"""What check_model reports."""

import lrp_by_hand as by_hand
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lrp_nets import Net, Scaled, norm
from torch import nn

from skexmap.lrp import Composite, Epsilon, Flat, Gamma, On, ZBox, check_model


def convolutional_net():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        norm(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(12, 4),
        nn.SiLU(),
        nn.Linear(4, 2),
    )


def test_the_kept_share_is_what_the_rule_passes_on():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double().requires_grad_(False)
    x = torch.randn(6, 4, dtype=torch.float64)
    report = check_model(net, x, target=1)
    given, passed_on = [], []
    for sample in x.numpy():
        z, back = by_hand.through(net[0], sample, by_hand.epsilon_rule)
        _, back_head = by_hand.through(net[2], by_hand.relu(z), by_hand.epsilon_rule)
        R = back_head(np.array([0.0, 1.0]))
        given.append([R.sum(), 1.0])
        passed_on.append([back(R).sum(), R.sum()])
    given, passed_on = np.array(given).T, np.array(passed_on).T
    for layer, g, h in zip(report.layers, given, passed_on, strict=True):
        assert layer.given == pytest.approx(g.mean())
        assert layer.kept == pytest.approx((g * h).sum() / (g**2).sum())
    np.testing.assert_allclose(report.pixel_relevance, passed_on[0])


@pytest.mark.parametrize("n_logits", [1, 2])
def test_images_whose_explained_logit_is_negative_are_counted(n_logits):
    net = nn.Linear(4, n_logits).requires_grad_(False)
    x = torch.randn(20, 4)
    # A model with one logit predicts its positive side, and class 0 has minus the logit.
    logits = torch.cat([-net(x), net(x)], 1) if n_logits == 1 else net(x)
    expected = {0: logits[:, 0], 1: logits[:, 1], "predicted": logits.amax(1)}
    for target, explained in expected.items():
        assert check_model(net, x, target=target).n_negative_targets == int((explained < 0).sum())


def test_all_that_has_no_rule_is_listed_and_not_the_first_only():
    net = Net(
        lambda net, x: net.head(torch.exp(Scaled.apply(F.relu(net.body(x).sort(-1)[0]), 2)) / (1 + x[:, :1])),
        body=nn.Linear(4, 3),
        head=nn.Linear(3, 2),
    )
    report = check_model(net, torch.rand(4, 4))
    assert not report.ok
    assert report.complete
    assert [missing.operation for missing in report.missing] == [
        "sort",
        "the autograd Function 'Scaled'",
        "exp",
    ]
    assert all("test_check_model.py, line" in missing.where for missing in report.missing)
    assert report.layers == []
    assert report.pixel_relevance is None


def test_leaving_torch_ends_the_report_early():
    net = Net(
        lambda net, x: net.head(torch.from_numpy(torch.exp(net.body(x)).numpy())),
        body=nn.Linear(4, 3),
        head=nn.Linear(3, 2),
    )
    report = check_model(net, torch.rand(4, 4))
    assert [missing.operation for missing in report.missing] == ["exp", "numpy"]
    assert not report.complete


@pytest.mark.parametrize(
    "end, composite, why",
    [
        (lambda y: y, [("convolution", Epsilon())], "has no entry for it (dense)"),
        (lambda y: y.softmax(1), [(On(), Epsilon())], "returns probabilities"),
        (lambda y: y + torch.rand_like(y), [(On(), Epsilon())], "It is random"),
    ],
)
def test_what_would_make_fit_fail_is_listed(end, composite, why):
    net = Net(lambda net, x: end(net.head(x)), head=nn.Linear(3, 2))
    (missing,) = check_model(net, torch.rand(4, 3), composite=Composite(composite)).missing
    assert why in missing.why


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_every_scripted_part_is_listed():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    net = nn.Sequential(scripted, nn.ReLU(), torch.jit.script(nn.Linear(3, 2)))
    report = check_model(net, torch.rand(4, 3))
    assert [(missing.operation, missing.where) for missing in report.missing] == [
        ("scripted or traced", "in '0'"),
        ("scripted or traced", "in '2'"),
    ]


def test_a_wrong_model_or_target_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got function"):
        check_model(lambda x: x, torch.rand(4, 3))
    with pytest.raises(ValueError, match="target=2 is out of range: the model has 2 classes"):
        check_model(nn.Linear(3, 2), torch.rand(4, 3), target=2)
    with pytest.raises(ValueError, match="must return logits"):
        check_model(nn.Flatten(0), torch.rand(4, 3))


def test_normalizations_are_reported_under_their_name():
    net = Net(
        lambda net, x: net.head(net.norm(net.body(x))),
        body=nn.Linear(4, 6, bias=False),
        norm=nn.LayerNorm(6, bias=False),
        head=nn.Linear(6, 2, bias=False),
    )
    report = check_model(net, torch.randn(4, 4), composite=Composite([(On(), Gamma(1.0, 1e-12))]))
    names = [(layer.name, layer.operation) for layer in report.layers]
    assert names == [("body", "dense"), ("norm", "normalization"), ("head", "dense")]
    assert report.layers[1].kept == pytest.approx(1, abs=1e-5)


def test_the_first_entry_of_a_composite_that_matches_decides():
    composite = Composite(
        [(On(layer="6"), Flat()), (On(first=True), ZBox(-9, 9)), ("dense", Epsilon()), (On(), Gamma())]
    )
    report = check_model(convolutional_net(), torch.randn(2, 2, 6, 6), composite=composite)
    assert {layer.name: layer.rule for layer in report.layers} == {
        "0": ZBox(-9, 9),
        "6": Flat(),
        "8": Epsilon(),
    }


def test_the_report_prints_as_aligned_tables():
    lines = str(check_model(convolutional_net(), torch.randn(5, 2, 6, 6))).splitlines()
    table = lines[: lines.index("")]
    assert table[0].split() == ["operation", "rule", "calls"]
    assert set(table[1]) == {"-", " "}
    assert all(line[table[0].index("rule") - 2 : table[0].index("rule")] == "  " for line in table)
    assert lines[-1].startswith("The explained logit is negative on")
    text = str(check_model(nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)), torch.rand(4, 3)))
    assert text.startswith("without a rule")


def test_the_model_stays_in_training_mode():
    net = convolutional_net().train()
    before = {name: values.clone() for name, values in net.state_dict().items()}
    check_model(net, torch.randn(5, 2, 6, 6))
    assert all(module.training for module in net.modules())
    assert all(torch.equal(values, before[name]) for name, values in net.state_dict().items())
