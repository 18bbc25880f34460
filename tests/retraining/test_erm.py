import numpy as np
import pytest
import torch

from skexmap.retraining import ERMClassifier


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 2.0, 1: 1.0, 2: 0.5}])
def test_the_gradient_of_the_weighted_logistic_loss_is_zero_after_erm(n_classes, class_weight):
    rng = np.random.RandomState(0)
    y = rng.randint(n_classes, size=200)
    X = 5 + 2 * np.eye(n_classes)[y] + rng.normal(size=(200, n_classes))
    weight = rng.uniform(size=200)
    if isinstance(class_weight, dict):
        class_weight = {code: class_weight[code] for code in range(n_classes)}
    erm = ERMClassifier(C=0.1, class_weight=class_weight).fit(X, y, sample_weight=weight)

    mean = np.average(X, axis=0, weights=weight)
    scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight))
    if class_weight == "balanced":
        weight = weight * (weight.sum() / n_classes / np.bincount(y, weight))[y]
    elif class_weight is not None:
        weight = weight * np.array(list(class_weight.values()))[y]
    residual = weight[:, None] * (erm.predict_proba(X) - np.eye(n_classes)[y])
    residual = residual[:, 1:] if n_classes == 2 else residual
    gradient = 0.1 * residual.T @ ((X - mean) / scale) + erm.coef_ * scale
    np.testing.assert_allclose(gradient, 0, atol=1e-4)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-3)
    assert abs(erm.coef_).min() > 0.01


def test_erm_without_standardisation_penalises_the_raw_coefficients(shortcut_data):
    X, y, _ = shortcut_data(300)
    raw = ERMClassifier(C=1e-3, standardize=False).fit(X, y)
    residual = raw.predict_proba(X)[:, 1] - y
    np.testing.assert_allclose(1e-3 * residual @ X + raw.coef_[0], 0, atol=1e-5)


@pytest.mark.parametrize("n_logits, n_classes", [(1, 2), (2, 2), (3, 3)])
def test_erm_from_the_last_layer_of_a_net_predicts_as_the_net(n_logits, n_classes):
    torch.manual_seed(0)
    layer, embedding = torch.nn.Linear(4, n_logits), torch.randn(50, 4)
    head = ERMClassifier.from_layer(layer, classes=np.arange(n_classes) + 5)
    logits = layer(embedding).detach().numpy()
    expected = (logits[:, 0] > 0) if n_logits == 1 else logits.argmax(axis=1)
    assert (head.predict(embedding.numpy()) == expected + 5).all()
    if n_logits > 1:
        proba = torch.softmax(layer(embedding), 1).detach().numpy()
        np.testing.assert_allclose(head.predict_proba(embedding.numpy()), proba, atol=1e-6)


def test_erm_from_a_layer_refuses_classes_that_do_not_fit_it():
    layer = torch.nn.Linear(4, 3, bias=False)
    with pytest.raises(ValueError, match="3 logits, but 2 classes"):
        ERMClassifier.from_layer(layer, classes=[0, 1])
    with pytest.raises(ValueError, match="sorted"):
        ERMClassifier.from_layer(layer, classes=[2, 1, 0])
    assert ERMClassifier.from_layer(layer, classes=[0, 1, 2]).intercept_.tolist() == [0, 0, 0]
