"""Small image classifiers, importable by worker processes and pickles."""

import torch
from torch import nn


class SmallNet(nn.Module):
    """Convolution, norm, residual sum, pooling, dropout and two dense layers: 3 x 8 x 8 images to `n_logits`."""

    def __init__(self, n_logits=2, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout()
        self.hidden = nn.Linear(64, 5)
        self.head = nn.Linear(5, n_logits)
        self.relu = nn.ReLU(inplace=True)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def features(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = x + self.again(x)
        return self.relu(self.hidden(self.drop(self.pool(x).flatten(1))))

    def forward(self, x):
        return self.head(self.features(x))


class TupleNet(SmallNet):
    """Returns the logits and something else."""

    def forward(self, x):
        features = self.features(x)
        return self.head(features), features


class AuxiliaryNet(SmallNet):
    """An auxiliary head runs after the head."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Linear(5, 2)

    def forward(self, x):
        features = self.features(x)
        logits = self.head(features)
        return logits, self.auxiliary(features * 2)


class CountingNet(SmallNet):
    """Counts, in a list outside the module, the images that it is shown."""

    def forward(self, x):
        SHOWN.append(len(x))
        return super().forward(x)


SHOWN = []


class FlatNet(nn.Module):
    """One dense layer on the flattened image."""

    def __init__(self, n_in, n_logits):
        super().__init__()
        self.head = nn.Linear(n_in, n_logits)

    def forward(self, x):
        return self.head(x.flatten(1))


class WithoutReuse:
    """Mix-in for `SmallNet`: every activation is used once and makes a new tensor, as captum's methods need it."""

    def __init__(self):
        super().__init__()
        self.relu, self.second_relu = nn.ReLU(), nn.ReLU()

    def features(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = x + self.again(x)
        return self.second_relu(self.hidden(self.drop(self.pool(x).flatten(1))))
