"""Training of linear heads on embeddings in mini-batches."""

from contextlib import contextmanager, nullcontext
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch.nn import functional as F

from skexmap._validation import Interval
from skexmap.retraining._linear import LinearHead, fold_scaler, standardizer


class TrainedHead(LinearHead):
    """Base class of linear heads that are trained by Adam, with the settings of the optimizer."""

    _parameter_constraints: dict = {
        "l2": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, l2, learning_rate, batch_size, n_steps, random_state):
        self.l2 = l2
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_steps = n_steps
        self.random_state = random_state

    def _shuffled(self, n_samples, generator):
        return shuffled_batches(n_samples, self.batch_size, self.n_steps, generator)

    def _balanced(self, group_codes, generator):
        return group_balanced_batches(group_codes, self.batch_size, self.n_steps, generator)

    def _train(self, embedding, loss, batches, **heads):
        steps = {"learning_rate": self.learning_rate, "l2": self.l2}
        return train_heads(embedding, len(self.classes_), loss, batches, **steps, **heads)

    def _check_fit(self, embedding, class_codes, remedy, fitted=slice(None)):
        remedy = f"{remedy} If the step is too large, lower `learning_rate` (now {self.learning_rate:g})."
        super()._check_fit(embedding, class_codes, remedy, fitted)


@contextmanager
def torch_defaults():
    """Compute on the CPU and with gradients, whatever device and mode the caller has set."""
    # A device context costs a third of a step's time, so it is entered only if the caller has set another device.
    is_cpu = torch.empty(0).device.type == "cpu"
    with torch.inference_mode(False), nullcontext() if is_cpu else torch.device("cpu"):
        yield


def torch_generator(random_state):
    """Return a torch generator seeded by `random_state`; torch's global generator is not touched."""
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return torch.Generator("cpu").manual_seed(int(seed))


def shuffled_batches(n_samples, batch_size, n_steps, generator):
    """Return the rows of each batch, (n_steps, batch_size); every epoch shuffles, and drops an incomplete batch."""
    batch_size = min(batch_size, n_samples)
    n_batches = n_samples // batch_size
    n_epochs = -(-n_steps // n_batches)
    orders = [torch.randperm(n_samples, generator=generator, device="cpu") for _ in range(n_epochs)]
    rows = torch.cat([order[: n_batches * batch_size] for order in orders])
    return rows.reshape(-1, batch_size)[:n_steps]


def group_balanced_batches(group_codes, batch_size, n_steps, generator):
    """Return batches with equally many rows of each group, drawn with replacement; rows of group -1 are not drawn."""
    groups = np.unique(group_codes[group_codes >= 0])
    share = -(-batch_size // len(groups))
    drawn = []
    for group in groups:
        members = torch.from_numpy(np.flatnonzero(group_codes == group))
        chosen = torch.randint(len(members), (n_steps, share), generator=generator, device="cpu")
        drawn.append(members[chosen])
    return torch.cat(drawn, dim=1)


def losses_per_sample(logits, targets):
    """Return the cross-entropy of each sample; a single column, or a vector, is the logit of class 1 of two."""
    if logits.ndim == 1 or logits.shape[1] == 1:
        logits = logits.reshape(-1)
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, targets.long(), reduction="none")


def train_heads(embedding, n_classes, loss, batches, *, learning_rate, l2, n_heads=1, generator=None):
    """Minimize ``loss(rows, *logits) + l2 / 2 ||w||^2`` over linear heads; return (coef, intercept) of each."""
    # `loss` takes the rows of a batch and the logits of each head, one column for two classes. The heads are trained
    # together on standardized embeddings, and their coefficients are returned for raw embeddings. They start at random
    # weights if a generator is given, else at zero.
    mean, scale = standardizer(embedding)
    # Use float32, because a step mostly moves memory. The scaler is computed and folded in float64.
    Z = torch.from_numpy(((embedding - mean) / scale).astype(np.float32))
    n_rows = 1 if n_classes == 2 else n_classes
    weight = torch.zeros((n_heads * n_rows, Z.shape[1]), dtype=Z.dtype, device="cpu")
    bias = torch.zeros(n_heads * n_rows, dtype=Z.dtype, device="cpu")
    if generator is not None:
        # As torch draws the weights of a dense layer.
        for values in (weight, bias):
            values.uniform_(-1, 1, generator=generator).div_(np.sqrt(Z.shape[1]))
    # Adam's "weight decay" adds l2 * w, the derivative of the penalty, to the gradient.
    groups = [{"params": [weight.requires_grad_()], "weight_decay": l2}, {"params": [bias.requires_grad_()]}]
    adam = torch.optim.Adam(groups, lr=learning_rate, fused=True)
    decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=len(batches))
    for rows in batches:
        logits = F.linear(Z.index_select(0, rows), weight, bias).chunk(n_heads, dim=1)
        adam.zero_grad()
        loss(rows, *logits).backward()
        adam.step()
        decay.step()
    coefs = weight.detach().numpy().reshape(n_heads, n_rows, -1)
    intercepts = bias.detach().numpy().reshape(n_heads, n_rows)
    return [fold_scaler(*head, mean, scale) for head in zip(coefs, intercepts, strict=True)]
