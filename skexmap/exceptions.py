"""The warnings of skexmap, by subject, and an error that lists images."""

__all__ = ["ClusteringWarning", "PredictionWarning", "SkexmapWarning", "UnreadableImagesError"]


class SkexmapWarning(UserWarning):
    """Base class of every warning of skexmap."""


class ClusteringWarning(SkexmapWarning):
    """The clusters are implausible.

    All rows are identical, the neighbor graph has more components than clusters were allowed, the clusters are not
    found again, or classes lie in one cluster each.
    """


class PredictionWarning(SkexmapWarning):
    """The predictions of a model are implausible.

    The frozen net or the retrained last layer gives the same answer for every sample, the frozen net is less accurate
    than the most frequent class alone, or the reference model of JTT has no errors, or nothing but errors.
    """


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
