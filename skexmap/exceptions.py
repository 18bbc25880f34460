"""Warnings of skexmap, which can be filtered one by one, and an error with additional data."""

__all__ = [
    "ClassInOneClusterWarning",
    "ConstantInputWarning",
    "ConstantPredictionWarning",
    "DisconnectedGraphWarning",
    "EmptyErrorSetWarning",
    "FullErrorSetWarning",
    "IrreproducibleClustersWarning",
    "OneClusterWarning",
    "SkexmapWarning",
    "UnreadableImagesError",
]


class SkexmapWarning(UserWarning):
    """Base class of every warning of skexmap."""


class EmptyErrorSetWarning(SkexmapWarning):
    """The identification model makes no errors, so there is nothing to upweight."""


class FullErrorSetWarning(SkexmapWarning):
    """The identification model gets every sample wrong, so upweighting changes nothing."""


class DisconnectedGraphWarning(SkexmapWarning):
    """The neighbor graph has more connected components than the allowed number of clusters."""


class IrreproducibleClustersWarning(SkexmapWarning):
    """The clusters are not reproducible under another seed or, in `cluster_stability`, on other samples."""


class ConstantInputWarning(SkexmapWarning):
    """All rows are identical, so there is one cluster regardless of the parameters."""


class OneClusterWarning(SkexmapWarning):
    """Every class lies in one cluster: the pseudo-groups are the classes and hide every shortcut."""


class ClassInOneClusterWarning(SkexmapWarning):
    """A class lies in one cluster: it is one pseudo-group, and a shortcut inside it stays hidden."""


class ConstantPredictionWarning(SkexmapWarning):
    """The frozen model, or the retrained last layer, predicts the same class for every sample."""


class UnreadableImagesError(ValueError):
    """Image files cannot be read. Raised before the model runs on any image.

    Parameters
    ----------
    message : str
        Number of unreadable files, and the first ones.
    indices : array-like of int of shape (n_unreadable,), default=()
        Rows of all unreadable files in X: ``np.delete(X, error.indices)`` can be read.
    """

    def __init__(self, message, indices=()):
        super().__init__(message)
        self.indices = indices
