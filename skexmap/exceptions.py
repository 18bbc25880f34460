"""The warnings of skexmap, so that they can be filtered one by one, and an error with more to it than a message."""

__all__ = [
    "ConstantInputWarning",
    "ConstantPredictionWarning",
    "DisconnectedGraphWarning",
    "ErrorSetWarning",
    "InaccurateModelWarning",
    "IrreproducibleClustersWarning",
    "OneClusterWarning",
    "SkexmapWarning",
    "UnreadableImagesError",
]


class SkexmapWarning(UserWarning):
    """Base class of every warning of skexmap."""


class ErrorSetWarning(SkexmapWarning):
    """The reference model of JTT gets all samples right, or all wrong: upweighting its errors changes nothing."""


class DisconnectedGraphWarning(SkexmapWarning):
    """The neighbor graph has more connected components than clusters were allowed."""


class IrreproducibleClustersWarning(SkexmapWarning):
    """The clusters are barely found again: under another seed, or in `cluster_stability` on other samples."""


class ConstantInputWarning(SkexmapWarning):
    """All rows are identical, so that there is one cluster whatever was asked for."""


class OneClusterWarning(SkexmapWarning):
    """Classes lie in one cluster each: such a class is one pseudo-group, and a shortcut inside it stays hidden."""


class ConstantPredictionWarning(SkexmapWarning):
    """The frozen net, or the retrained last layer, gives the same answer for every sample."""


class InaccurateModelWarning(SkexmapWarning):
    """The frozen net is less accurate than the most frequent class alone: its logits may stand for other classes."""


class UnreadableImagesError(ValueError):
    """Image files cannot be read. Raised before the first image is shown to the model.

    Parameters
    ----------
    message : str
        How many there are, and the first ones.
    indices : array-like of int of shape (n_unreadable,), default=()
        All their rows in X: ``np.delete(X, error.indices)`` can be read.
    """

    def __init__(self, message, indices=()):
        super().__init__(message)
        self.indices = indices
