import numpy as np
import pytest
import torch

from skexmap.retraining import GroupDROLoss, JTTClassifier

skorch = pytest.importorskip("skorch")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.ReLU())
        self.head = torch.nn.Linear(8, 2)

    def forward(self, X):
        return self.head(self.layers(X))


def shortcut_images(n=600, agreement=0.95, seed=0):
    """Images (3, 2, 2) whose first channel shows the class and whose others show the shortcut."""
    rng = np.random.RandomState(seed)
    y = rng.randint(2, size=n)
    shortcut = np.where(rng.uniform(size=n) < agreement, y, 1 - y)
    images = rng.normal(scale=0.5, size=(n, 3, 2, 2))
    images[:, 0] += (2 * y - 1)[:, None, None] * 0.5
    images[:, 1:] += (2 * shortcut - 1)[:, None, None, None]
    return images.astype(np.float32), y, shortcut


def classifier(**options):
    torch.manual_seed(0)
    options = {"max_epochs": 30, "lr": 0.1, "train_split": None, "verbose": 0, **options}
    return skorch.NeuralNetClassifier(Net, criterion=torch.nn.CrossEntropyLoss, **options)


def accuracy_against(model):
    images, y, shortcut = shortcut_images(1000, agreement=0.5, seed=1)
    against = shortcut != y
    return np.mean(np.asarray(model.predict(images))[against] == y[against])


def test_a_whole_network_is_trained_twice():
    images, y, _ = shortcut_images()
    erm = classifier().fit(images, y)
    jtt = JTTClassifier(classifier(), reference_estimator=classifier(max_epochs=2, lr=0.02)).fit(images, y)
    assert len(jtt.error_set_) > 0
    assert accuracy_against(jtt) > accuracy_against(erm) + 0.05


def test_group_dro_loss_is_a_criterion_where_the_targets_carry_the_groups():
    images, y, shortcut = shortcut_images()

    class Criterion(GroupDROLoss):
        def forward(self, logits, targets):
            return super().forward(logits, targets[:, 0], targets[:, 1])

    torch.manual_seed(0)
    net = skorch.NeuralNet(
        Net,
        criterion=Criterion,
        criterion__n_groups=4,
        criterion__eta=0.1,
        max_epochs=30,
        lr=0.1,
        train_split=None,
        verbose=0,
    )
    net.fit(images, np.column_stack([y, 2 * y + shortcut]))
    weights = net.criterion_.group_weights
    assert float(weights.sum()) == pytest.approx(1)
    new, y_new, shortcut_new = shortcut_images(1000, agreement=0.5, seed=1)
    against = shortcut_new != y_new
    robust = np.mean(net.predict(new).argmax(axis=1)[against] == y_new[against])
    assert robust > accuracy_against(classifier().fit(images, y))
