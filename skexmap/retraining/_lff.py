"""Learning from failure: a head that leans on the shortcut weights the samples of another head."""

from numbers import Real

import torch

from skexmap._validation import Interval, _fit_context
from skexmap.retraining._inputs import check_classes, check_embedding
from skexmap.retraining._training import TrainedHead, losses_per_sample, torch_defaults, torch_generator


def generalized_cross_entropies(cross_entropies, q):
    """Return ``(1 - p^q) / q`` of each sample from its cross-entropy ``-log p``."""
    # The limit of a small q is the cross-entropy. Of a smaller one, float32 would make 0 / 0.
    q = max(q, 1e-12)
    return -torch.expm1(-q * cross_entropies) / q


class RunningLosses:
    """The exponential moving average of each sample's loss under each head."""

    def __init__(self, n_heads, class_codes, decay):
        self.class_codes, self.decay = class_codes, decay
        self.averages = torch.zeros((n_heads, len(class_codes)), dtype=torch.float32, device="cpu")
        self.seen = torch.zeros(len(class_codes), dtype=torch.bool, device="cpu")

    def update(self, rows, losses):
        """Take in the losses of a batch, (n_heads, n_rows); return its averages divided by the largest of the class."""
        moved = self.decay * self.averages[:, rows] + (1 - self.decay) * losses
        averages = torch.where(self.seen[rows], moved, losses)
        self.averages[:, rows], self.seen[rows] = averages, True
        classes = self.class_codes.expand(len(self.averages), -1)
        largest = torch.zeros_like(self.averages).scatter_reduce(1, classes, self.averages, "amax")
        return averages / largest[:, self.class_codes[rows]].clamp(min=torch.finfo(torch.float32).tiny)


def relative_difficulty(biased_losses, debiased_losses):
    """Return ``biased / (biased + debiased)``, and 1/2 if neither head has a loss."""
    total = biased_losses + debiased_losses
    return torch.where(total > 0, biased_losses / total, 0.5)


class LfFClassifier(TrainedHead):
    r"""Learning from failure (LfF) of the last layer, without group labels.

    Two heads are trained together [1]_. The *biased* head minimizes the generalized cross-entropy. This loss favors the
    samples that the head already gets right, and so the shortcut that most of them follow:

    .. math:: \text{GCE}(p, y) = \frac{1 - p_y^q}{q}, \qquad
       \frac{\partial \, \text{GCE}}{\partial \theta} = p_y^q \, \frac{\partial \, \text{CE}}{\partial \theta}.

    The *debiased* head, which predicts, is trained with a weight for each sample that is large if the sample is harder
    for the biased head:

    .. math:: W(x) = \frac{\text{CE}(f_B(x), y)}{\text{CE}(f_B(x), y) + \text{CE}(f_D(x), y)}.

    Both losses in W are moving averages over the steps, divided by the largest of the class.

    Parameters
    ----------
    q : float, default=0.7
        How strongly the biased head favors samples that it gets right (published). As q goes to 0, its loss becomes the
        cross-entropy.
    decay : float, default=0.7
        Share of the old average of a sample's loss that is kept at each step (published).
    l2 : float, default=0.01
        Penalty on the weights of both heads, :math:`\frac{l2}{2} \|w\|^2`. There is no published value for a
        last layer, and the result depends on it: see the notes.
    learning_rate : float, default=0.05
        First step size of Adam; it falls linearly to zero. (The paper trains whole networks by Adam at 0.001.)
    batch_size : int, default=256
        Samples per step (published).
    n_steps, random_state
        As in `GroupDROClassifier`.

    Attributes
    ----------
    biased_coef_, biased_intercept_ : ndarray
        Coefficients and intercepts of the biased head.
    sample_weight_ : ndarray of shape (n_samples,)
        W of each sample when it was last in a batch; 1/2 if it never was.
    coef_, intercept_, classes_, n_features_in_, feature_names_in_
        As in `ERMClassifier`, as are the errors and warnings of `fit`; the coefficients are those of the debiased head.

    Notes
    -----
    The method relies on the *order* in which a network learns its features, the shortcut first. A last layer has the
    two losses but not this order: on fixed embeddings, only the generalized cross-entropy makes the heads differ. The
    weights reinforce themselves, because a sample that the debiased head gets wrong loses weight. Only the penalty
    stops this. With a weak penalty and many steps, the debiased head turns *against* the shortcut and fails on the
    samples that follow it. With a strong penalty, both heads use the shortcut equally. On the embeddings of the demo's
    net, the default turned against the shortcut (see the table in ``docs/retraining.md``). Choose `l2` and `n_steps` by
    the worst pseudo-group.

    References
    ----------
    .. [1] Nam, Cha, Ahn, Lee, Shin. "Learning from failure: Training debiased classifier from biased classifier".
       NeurIPS 2020. arXiv:2007.02561.

    Examples
    --------
    >>> from skexmap.datasets import make_shortcut_features
    >>> from skexmap.retraining import ERMClassifier, LfFClassifier
    >>> X, y, shortcut = make_shortcut_features(2000, n_features=4, agreement=0.95, random_state=0)
    >>> for model in (ERMClassifier(), LfFClassifier(random_state=0)):
    ...     right = model.fit(X, y).predict(X) == y
    ...     print([round(float(right[(shortcut == y) == holds].mean()), 1) for holds in (True, False)])
    [1.0, 0.7]
    [0.8, 0.9]
    """

    _parameter_constraints: dict = {
        "q": [Interval(Real, 0, 1, closed="right")],
        "decay": [Interval(Real, 0, 1, closed="left")],
        **TrainedHead._parameter_constraints,
    }

    def __init__(
        self,
        q=0.7,
        *,
        decay=0.7,
        l2=0.01,
        learning_rate=0.05,
        batch_size=256,
        n_steps=1000,
        random_state=None,
    ):
        super().__init__(l2, learning_rate, batch_size, n_steps, random_state)
        self.q = q
        self.decay = decay

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, group_labels=None):
        """Train a biased head, and a debiased one on what the biased one fails at.

        Parameters
        ----------
        X, y, group_labels
            As in `ERMClassifier.fit`; `group_labels` is not used.

        Returns
        -------
        self : object
        """
        embedding = check_embedding(self, X, reset=True)
        self.classes_, class_codes = check_classes(self, y, len(embedding))
        with torch_defaults():
            targets = torch.from_numpy(class_codes)
            running = RunningLosses(2, targets, self.decay)
            weights = torch.full((len(embedding),), 0.5, dtype=torch.float32)
            batches = self._shuffled(len(embedding), torch_generator(self.random_state))

            def loss(rows, *logits):
                losses = torch.stack([losses_per_sample(head, targets[rows]) for head in logits])
                weights[rows] = relative_difficulty(*running.update(rows, losses.detach()))
                biased, debiased = losses
                return generalized_cross_entropies(biased, self.q).mean() + (weights[rows] * debiased).mean()

            biased_head, head = self._train(embedding, loss, batches, n_heads=2)
        self.biased_coef_, self.biased_intercept_ = biased_head
        self.coef_, self.intercept_ = head
        self.sample_weight_ = weights.numpy()
        remedy = (
            "Weaken the penalty (`l2`): the weights are below 1, and those of a small class add up to little."
        )
        self._check_fit(embedding, class_codes, remedy)
        return self
