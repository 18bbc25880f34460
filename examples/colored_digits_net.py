"""A small net that learns the color of the ink of scikit-learn's digits. The examples use this module."""

import torch


def make_net():
    """Return the net, untrained; its first weights are the same every time."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 8, 5, stride=2), torch.nn.ReLU()),
        *(torch.nn.Conv2d(8, 16, 5, stride=2), torch.nn.ReLU(), torch.nn.Flatten()),
        *(torch.nn.Linear(256, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)),
    )


def train_net(split):
    """Return the net, trained on the images and classes of a split of `make_colored_digits`."""
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    images, target = torch.as_tensor(split.data), torch.as_tensor(split.target)
    for _ in range(8):
        for rows in torch.randperm(len(target)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images[rows]), target[rows]).backward()
            optimizer.step()
    return net
