"""Diversify and disambiguate: heads that disagree on unlabeled samples, and the choice of one of them."""

from itertools import combinations
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skexmap._group_labels import NO_GROUP, large_enough
from skexmap._validation import Interval, _fit_context, codes_of_known_classes
from skexmap.retraining._group_scores import count_right, shrunk_worst_group_accuracies
from skexmap.retraining._inputs import check_embedding, check_groups, check_samples, refuse_lost_classes
from skexmap.retraining._linear import predict_codes, softmax_probabilities
from skexmap.retraining._training import TrainedHead, losses_per_sample, torch_defaults, torch_generator


def class_probabilities(logits):
    """Return the probability of each class, (n_samples, n_classes); a single column is the logit of class 1 of two."""
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return torch.softmax(logits, dim=1)


def mutual_information(p, q):
    """Return the mutual information of two heads' predictions from their probabilities on a batch."""
    joint = p.T @ q / len(p)
    return (joint * (_log(joint) - _log(p.mean(0))[:, None] - _log(q.mean(0)))).sum()


def divergence_from_prior(p, prior):
    """Return the Kullback-Leibler divergence of the mean prediction of a batch from the class shares `prior`."""
    mean = p.mean(0)
    return (mean * (_log(mean) - prior.log())).sum()


def _log(probabilities):
    # 0 log 0 is 0, with a finite gradient.
    return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()


def class_shares(samples):
    """Return the share of each class among samples that are drawn from all groups equally often, never from -1."""
    counts = np.zeros((len(samples.groups), len(samples.classes)))
    np.add.at(counts, (samples.group_codes[samples.belongs], samples.class_codes[samples.belongs]), 1)
    counts = counts[counts.any(axis=1)]
    return (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)


class DivDisClassifier(TrainedHead):
    r"""Diversify and disambiguate (DivDis): several last layers that disagree, and the choice of one.

    *Diversify* [1]_: heads :math:`f_1, \dots, f_N` all fit the labeled samples, and are as independent as possible
    on unlabeled samples,

    .. math:: \min \; \frac{1}{N} \sum_i \text{CE}(f_i) + \lambda_1 \, \underset{i < j}{\text{mean}} \,
       D_{\text{KL}}\big(\hat p(\hat y_i, \hat y_j) \,\|\, \hat p(\hat y_i) \otimes \hat p(\hat y_j)\big)
       + \frac{\lambda_2}{N} \sum_i D_{\text{KL}}\big(\hat p(\hat y_i) \,\|\, p(y)\big),

    with :math:`\hat p` the means over a batch of unlabeled samples and :math:`p(y)` the class shares of the labeled
    ones. (If the unlabeled samples are drawn from the labeled ones, these are the class shares of that draw.)
    *Disambiguate*: `fit` chooses the head with the highest accuracy on its worst (pseudo-)group of the labeled samples.
    `select_head` chooses again, as in the paper, by the labels of a few samples on which the heads disagree. `predict`
    uses only the chosen head.

    Parameters
    ----------
    n_heads : int, default=2
        Number of heads (published).
    diversity : float, default=10.0
        Lambda 1, the weight of the mutual information (published).
    regularization : float, default=10.0
        Lambda 2, the weight of the last term (published). It prevents a head from predicting one class for every
        unlabeled sample.
    min_group_size : int, default=6
        (Pseudo-)groups with fewer samples are considered slivers of a clustering. They do not count in the choice of
        the head, and are not drawn as unlabeled samples.
    l2 : float, default=1e-4
        Penalty on the weights, :math:`\frac{l2}{2} \|w\|^2` (published, as weight decay).
    learning_rate : float, default=0.01
        First step size of Adam; it falls linearly to zero. (The paper trains whole networks by SGD.)
    batch_size : int, default=256
        Number of labeled samples per step, and of unlabeled ones. (The paper uses 16. A larger batch costs little on a
        last layer, and the mutual information of a small batch is biased upward.)
    n_steps : int, default=1000
        Number of steps.
    random_state : int, RandomState instance or None, default=None
        Draws the first weights and the batches.

    Attributes
    ----------
    heads_ : list of tuple (coef, intercept)
        Coefficients and intercepts of all heads.
    head_ : int
        Index of the chosen head.
    head_scores_ : ndarray of shape (n_heads,)
        Score of each head: the accuracy of the worst group, shrunk as in `DFRClassifierCV`, or of all samples after
        `select_head` without groups.
    coef_, intercept_, classes_, groups_, n_features_in_, feature_names_in_
        As in `DFRClassifier`, which finds its groups in the same way. The coefficients are those of the chosen head.

    Raises
    ------
    ValueError
        In `fit`: as in `ERMClassifier` (whose warning it shares), and if no group has `min_group_size` samples.

    Notes
    -----
    Class and shortcut must disagree on many of the unlabeled samples; the paper uses samples of the target
    distribution. Without `X_unlabeled`, the labeled samples are used, and all (pseudo-)groups are drawn equally often,
    so the shortcut does not predict the class. This is our addition. It does not help if the groups are only the
    classes, because the best head then leans on the shortcut.

    Only the last layer is trained, so the heads can only use features that the embedding already has.

    References
    ----------
    .. [1] Lee, Yao, Finn. "Diversify and disambiguate: Out-of-distribution robustness via disagreement". ICLR 2023.
       arXiv:2202.03418.

    Examples
    --------
    Class and shortcut agree on every labeled sample, so the labels allow both explanations. Unlabeled samples separate
    the two, with the labels of the 16 samples on which the heads disagree most:

    >>> import numpy as np
    >>> from skexmap.retraining import DivDisClassifier, ERMClassifier
    >>> def make(n, agreement, rng=np.random.RandomState(0)):
    ...     y = rng.randint(2, size=n)
    ...     shortcut = np.where(rng.uniform(size=n) < agreement, y, 1 - y)
    ...     X = np.column_stack([2 * y - 1, 4 * shortcut - 2]) + 0.3 * rng.normal(size=(n, 2))
    ...     return X, y, shortcut != y
    >>> X, y, _ = make(1000, agreement=1.0)
    >>> target, target_y, against = make(1000, agreement=0.5)
    >>> divdis = DivDisClassifier(random_state=0).fit(X, y, X_unlabeled=target)
    >>> asked = np.argsort(-divdis.disagreement(target))[:16]
    >>> divdis = divdis.select_head(target[asked], target_y[asked])
    >>> models = ERMClassifier().fit(X, y), divdis
    >>> [round(model.score(target[against], target_y[against]), 1) for model in models]
    [0.2, 1.0]
    """

    _parameter_constraints: dict = {
        "n_heads": [Interval(Integral, 1, None, closed="left")],
        "diversity": [Interval(Real, 0, None, closed="left")],
        "regularization": [Interval(Real, 0, None, closed="left")],
        "min_group_size": [Interval(Integral, 1, None, closed="left")],
        **TrainedHead._parameter_constraints,
    }

    def __init__(
        self,
        n_heads=2,
        *,
        diversity=10.0,
        regularization=10.0,
        min_group_size=6,
        l2=1e-4,
        learning_rate=0.01,
        batch_size=256,
        n_steps=1000,
        random_state=None,
    ):
        super().__init__(l2, learning_rate, batch_size, n_steps, random_state)
        self.n_heads = n_heads
        self.diversity = diversity
        self.regularization = regularization
        self.min_group_size = min_group_size

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, group_labels=None, X_unlabeled=None):
        """Train the heads, and choose the one with the best worst group.

        Parameters
        ----------
        X, y, group_labels
            As in `DFRClassifier.fit`.
        X_unlabeled : array-like of shape (n_unlabeled, n_features), or blocks with ``embedding``, default=None
            Embeddings of samples on which the heads should disagree. If None, they are drawn from X, all groups equally
            often. A `sklearn.pipeline.Pipeline` transforms them if its `transform_input` names them.

        Returns
        -------
        self : object
        """
        samples = check_samples(self, X, y, group_labels)
        self.classes_, self.groups_ = samples.classes, samples.groups
        if not samples.groups_are_classes:
            large = large_enough(samples.group_counts, self.min_group_size)
            samples = samples._replace(
                group_codes=np.where(large[samples.group_codes], samples.group_codes, NO_GROUP)
            )
        if X_unlabeled is not None:
            X_unlabeled = check_embedding(self, X_unlabeled, reset=False)
        with torch_defaults():
            self.heads_ = self._diversify(samples, X_unlabeled)
        self._choose_head(samples.embedding, samples.class_codes, samples.group_codes)
        remedy = (
            "Give unlabeled samples with the class shares of the labeled ones, or lower `regularization`."
        )
        self._check_fit(samples.embedding, samples.class_codes, remedy)
        return self

    def _diversify(self, samples, unlabeled):
        """Return (coef, intercept) of heads that fit the labeled samples and disagree on the unlabeled ones."""
        generator = torch_generator(self.random_state)
        embedding = samples.embedding
        labeled = self._shuffled(len(embedding), generator)
        if unlabeled is None:
            refuse_lost_classes(samples, "no group (-1) or to groups below `min_group_size`")
            prior = class_shares(samples)
            others = self._balanced(samples.group_codes, generator)
        else:
            prior = np.bincount(samples.class_codes) / len(embedding)
            others = len(embedding) + self._shuffled(len(unlabeled), generator)
            embedding = np.concatenate([embedding, unlabeled])
        targets, prior = torch.from_numpy(samples.class_codes), torch.from_numpy(prior).float()
        n_labeled, pairs = labeled.shape[1], list(combinations(range(self.n_heads), 2))

        def loss(rows, *logits):
            y = targets[rows[:n_labeled]]
            p = [class_probabilities(head[n_labeled:]) for head in logits]
            fit = sum(losses_per_sample(head[:n_labeled], y).mean() for head in logits)
            balance = sum(divergence_from_prior(head, prior) for head in p)
            shared = sum(mutual_information(p[i], p[j]) for i, j in pairs)
            diversify = self.diversity / max(len(pairs), 1)
            return (fit + self.regularization * balance) / self.n_heads + diversify * shared

        batches = torch.cat([labeled, others], dim=1)
        return self._train(embedding, loss, batches, n_heads=self.n_heads, generator=generator)

    def _choose_head(self, embedding, class_codes, group_codes):
        scores = np.stack([embedding @ coef.T + intercept for coef, intercept in self.heads_], axis=1)
        correct = predict_codes(scores) == class_codes[:, None]
        right, counts = count_right(correct, group_codes, group_codes.max() + 1)
        self.head_scores_ = shrunk_worst_group_accuracies(right, counts, self.min_group_size)
        self.head_ = int(self.head_scores_.argmax())
        self.coef_, self.intercept_ = self.heads_[self.head_]

    def disagreement(self, X):
        r"""Return how far the heads disagree about each sample: :math:`\sum_{i \ne j} \|f_i(x) - f_j(x)\|_1`.

        Pass the labels of the samples with the largest values to `select_head`. The paper uses 16 samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with ``embedding``
            Embeddings.

        Returns
        -------
        disagreement : ndarray of shape (n_samples,)
            From 0 to ``2 * n_heads * (n_heads - 1)``.
        """
        check_is_fitted(self)
        embedding = check_embedding(self, X, reset=False)
        p = np.array(
            [softmax_probabilities(embedding @ coef.T + intercept) for coef, intercept in self.heads_]
        )
        return np.abs(p[:, None] - p[None]).sum(axis=(0, 1, 3))

    def select_head(self, X, y, group_labels=None):
        """Choose the head that predicts, by its accuracy on labeled samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with ``embedding``
            Embeddings of samples of the target distribution; a few are enough.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels : array-like of shape (n_samples,), default=None
            Their groups, -1 for none; the accuracy on the worst group decides. If None, the accuracy on all samples
            decides.

        Returns
        -------
        self : object
            With `head_`, `head_scores_`, `coef_` and `intercept_` of the chosen head.

        Raises
        ------
        ValueError
            If y holds a class that `fit` did not see, or is of another length.
        """
        check_is_fitted(self)
        embedding = check_embedding(self, X, reset=False)
        class_codes = codes_of_known_classes(y, self.classes_, len(embedding))
        if group_labels is None:
            group_codes = np.zeros_like(class_codes)
        else:
            group_codes = check_groups(self, X, embedding, self.classes_, class_codes, group_labels)[1]
        self._choose_head(embedding, class_codes, group_codes)
        return self
