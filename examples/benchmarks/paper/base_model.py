"""The net that leans on the shortcut: trained as usual, by its mean error."""

import copy

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


def small_net(seed):
    """Return an untrained net of three convolutions for images of 28 x 28 pixels; its embedding has 256 values."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 2)),
    )


def resnet50(seed, weights=None):
    """Return torchvision's ResNet-50 with two logits, its other layers from a file of ImageNet weights."""
    from torchvision.models import resnet50

    torch.manual_seed(seed)
    net = resnet50()
    if weights is not None:
        net.load_state_dict(torch.load(weights, weights_only=True))
    net.fc = nn.Linear(net.fc.in_features, 2)
    return net


class _Loaded(Dataset):
    """Paths and labels; an image is opened when it is asked for."""

    def __init__(self, paths, y, load):
        self.paths, self.y, self.load = paths, y, load

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return self.load(self.paths[i]), self.y[i]


def batches(split, batch_size, load=None, order=None, num_workers=0):
    """Yield images and classes of a split, in an order."""
    rows = torch.arange(len(split.target)) if order is None else order
    if load is not None:
        data = _Loaded(split.data[rows.numpy()], split.target[rows.numpy()], load)
        yield from DataLoader(data, batch_size=batch_size, num_workers=num_workers)
        return
    images, y = torch.from_numpy(split.data), torch.from_numpy(split.target)
    for chunk in rows.split(batch_size):
        yield images[chunk], y[chunk]


@torch.no_grad()
def accuracy(net, split, load=None, device="cpu"):
    """Return the share of a split that the net gets right."""
    net.eval()
    hits = sum(
        (net(images.to(device)).argmax(1).cpu() == y).sum().item() for images, y in batches(split, 512, load)
    )
    return hits / len(split.target)


def train(net, setting, seed, *, n_epochs, learning_rate, batch_size=128, weight_decay=1e-3, device="cpu"):
    """Train a net; leave it as it was after the (last) epoch with the best mean validation accuracy.

    SGD with momentum 0.9, a cosine schedule over all batches, and weight decay; no group label is seen. Returns
    the validation accuracy after each epoch.
    """
    net = net.to(device)
    shuffle = torch.Generator().manual_seed(seed)
    n = len(setting.train.target)
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
    n_batches = -(-n // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs * n_batches)
    history, best = [], None
    for _ in range(n_epochs):
        net.train()
        order = torch.randperm(n, generator=shuffle)
        for images, y in batches(setting.train, batch_size, setting.load, order):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images.to(device)), y.to(device)).backward()
            optimizer.step()
            schedule.step()
        history.append(accuracy(net, setting.validation, setting.load, device))
        if history[-1] == max(history):
            best = copy.deepcopy(net.state_dict())
    net.load_state_dict(best)
    net.cpu().eval()
    return history
