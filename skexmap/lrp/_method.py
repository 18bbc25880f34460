"""The settings of layer-wise relevance propagation as one object whose parameters can be searched over."""

from numbers import Integral, Real

import torch
from sklearn.base import BaseEstimator

from skexmap._validation import Interval, StrOptions
from skexmap.lrp._composites import Composite, resolve_composite


class LRP(BaseEstimator):
    """Layer-wise relevance propagation, for `HeatmapTransformer(attribution=...)`.

    Parameters
    ----------
    composite : str or Composite, default="epsilon_gamma"
        Which rule each layer gets: a key of `skexmap.lrp.COMPOSITES`, or the table itself.
    gamma : float or None, default=None
        Gamma of a named composite that has one. None keeps the composite's default (4.0, as published).
    epsilon : float or None, default=None
        Stabilizer of a named composite. None keeps the composite's default (1e-6, as published).
    initial_relevance : {"one", "logit"}, default="one"
        Relevance at the target: 1 (as published), or its logit. With 1, the signs of a map are flipped if the target's
        logit is negative. A model with one logit starts with 1 at the predicted class.
    layer : str or None, default=None
        Name of a module at whose output the propagation stops, for example ``"layer3"`` of a ResNet. The map is then
        coarser and cheaper: it is the sum over the channels of that layer. None propagates down to the pixels.
    target : "predicted", int or callable, default="predicted"
        The class whose logit is explained: the predicted one, one index for all images, or a function from the logits
        (tensor of shape (n, n_logits)) to n indices.

    Raises
    ------
    ValueError
        When it is used, if the composite is unknown or does not have the given `gamma` or `epsilon`, or if `target` is
        out of range.

    Examples
    --------
    >>> from skexmap.features import HeatmapTransformer
    >>> from skexmap.lrp import LRP
    >>> heatmaps = HeatmapTransformer(attribution=LRP(gamma=1.0))
    >>> heatmaps.set_params(attribution__gamma=0.5).attribution
    LRP(gamma=0.5)
    """

    _parameter_constraints = {
        "composite": [str, Composite],
        "gamma": [Interval(Real, 0, None, closed="left"), None],
        "epsilon": [Interval(Real, 0, None, closed="left"), None],
        "initial_relevance": [StrOptions({"one", "logit"})],
        "layer": [str, None],
        "target": [StrOptions({"predicted"}), Interval(Integral, 0, None, closed="left"), callable],
    }

    def __init__(
        self,
        composite="epsilon_gamma",
        *,
        gamma=None,
        epsilon=None,
        initial_relevance="one",
        layer=None,
        target="predicted",
    ):
        self.composite = composite
        self.gamma = gamma
        self.epsilon = epsilon
        self.initial_relevance = initial_relevance
        self.layer = layer
        self.target = target

    def resolved(self):
        """Return the composite with these settings.

        Returns
        -------
        composite : Composite
        """
        self._validate_params()
        return resolve_composite(self.composite, gamma=self.gamma, epsilon=self.epsilon)

    def choose_target(self, logits):
        """Return the class to explain.

        Parameters
        ----------
        logits : tensor of shape (n, n_logits)

        Returns
        -------
        target : tensor of shape (n,), int64
        """
        n_classes = max(2, logits.shape[1])
        if self.target == "predicted":
            return predicted_classes(logits)
        if not callable(self.target):
            if self.target >= n_classes:
                raise ValueError(f"target={self.target} is out of range: the model has {n_classes} classes.")
            return torch.full_like(logits[:, 0], self.target, dtype=torch.long)
        target = torch.as_tensor(self.target(logits), device=logits.device)
        if target.shape != logits.shape[:1] or target.min() < 0 or target.max() >= n_classes:
            raise ValueError(
                f"`target` must return one class index from 0 to {n_classes - 1} for each of {len(logits)} images, "
                f"got shape {tuple(target.shape)}, values {target.min().item()} to {target.max().item()}."
            )
        return target


def predicted_classes(logits):
    """Return the index of the class that each row of logits predicts; a single logit does so by its sign."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
