"""The contract of a clusterer that is also a pipeline step."""

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from skexmap._blocks import HEATMAP
from skexmap.cluster._output import check_columns_in, columns_handed_on, flat_block, hand_on
from skexmap.cluster._stability import seed_agreement

FLOATS = (np.float64, np.float32)


class ClustererStep(ClusterMixin, TransformerMixin, BaseEstimator):
    """A clusterer of plain rows, or of the block ``heatmap``, that hands on clusters.

    A subclass has `fit`, which sets ``labels_`` and calls `_learn_output`, and `predict`.
    """

    def transform(self, X):
        """Replace the heatmaps by their clusters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with the block \
                ``heatmap``
            New rows, as for `predict`.

        Returns
        -------
        X_out : ndarray of shape (n_samples, 1), or structured ndarray of shape (n_samples,)
            The cluster as one column; for an X with blocks, its blocks with ``heatmap`` replaced by the
            integer block ``cluster``. A data frame where `set_output` asked for one.
        """
        return hand_on(self, X, self.predict(X))

    def fit_transform(self, X, y=None):
        """Cluster the rows of X and replace them by their clusters, `labels_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with the block \
                ``heatmap``
            What to cluster.
        y : None
            Ignored.

        Returns
        -------
        X_out : ndarray of shape (n_samples, 1), or structured ndarray of shape (n_samples,)
            As `transform` returns it.
        """
        self.fit(X, y)
        return hand_on(self, X, self.labels_)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns of `transform`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Only checked against the features seen in `fit`.

        Returns
        -------
        names : ndarray of str objects
            ``cluster_0``; after a fit on blocks, preceded by the columns of the blocks passed through.
        """
        check_is_fitted(self)
        check_columns_in(self, input_features, self._columns_out)
        return self._columns_out

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _read_rows(self, X, *, reset, accept_sparse=False):
        return validate_data(
            self,
            flat_block(X, HEATMAP, required_by=self),
            reset=reset,
            dtype=FLOATS,
            accept_sparse=accept_sparse,
            ensure_min_samples=2 if reset else 1,
        )

    def _check_seeds(self, rows, labels):
        """Return the agreement of the clusters with those of other seeds."""
        params = {**self.get_params(deep=False), "n_seed_checks": 0}

        def cluster_again(seed):
            return type(self)(**{**params, "random_state": seed}).fit(rows).labels_

        return seed_agreement(
            labels, cluster_again, self.n_seed_checks, what=f"{rows.shape[0]} rows", who=type(self).__name__
        )

    def _learn_output(self, X):
        self._columns_out = columns_handed_on(X, self.labels_)
