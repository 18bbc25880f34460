"""Clusters merged, dropped or named by hand."""

import json
import os

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skexmap._group_labels import decode_groups, encode_groups

_KINDS = ("merge", "drop", "rename")


class ClusterChoices:
    """What a person may change about the clusters of a fitted labeler. The numbers of other clusters stay."""

    def merge(self, clusters):
        """Merge clusters into the one with the smallest number.

        Parameters
        ----------
        clusters : list of int
            Numbers in `cluster_labels_`, at least two.

        Returns
        -------
        self : PseudoGroupLabeler

        Raises
        ------
        ValueError
            If fewer than two are given, if one has no images, or if clusters were formed inside each class.
        """
        clusters = sorted(set(self._check_clusters(clusters)))
        if len(clusters) < 2:
            raise ValueError(f"`merge` needs at least two clusters, got {clusters}.")
        return self._renumber(dict.fromkeys(clusters, clusters[0]))

    def drop(self, cluster):
        """Put the images of a cluster into no group (-1), so that the last layer is not fitted on them.

        Parameters
        ----------
        cluster : int
            Number in `cluster_labels_`.

        Returns
        -------
        self : PseudoGroupLabeler

        Raises
        ------
        ValueError
            If it has no images, if no other cluster is left, or if clusters were formed inside each class.
        """
        self._check_clusters([cluster])
        if len(self._numbers_in_use()) == 1:
            raise ValueError(f"Cluster {cluster} is the only one: dropping it would leave no group.")
        return self._renumber({cluster: -1})

    def rename(self, names):
        """Name clusters, for reports.

        Parameters
        ----------
        names : dict
            Number in `cluster_labels_` -> name.

        Returns
        -------
        self : PseudoGroupLabeler

        Raises
        ------
        ValueError
            If a cluster has no images, or if clusters were formed inside each class.
        """
        self._check_clusters(names)
        self.cluster_names_ = {**self.cluster_names_, **{c: str(name) for c, name in names.items()}}
        return self

    def apply_choices(self, choices):
        """Merge, then drop, then rename clusters, as chosen on the page of a `ShortcutReport`.

        Parameters
        ----------
        choices : dict, str or path-like
            A dict with the keys ``merge`` (a list of lists of clusters), ``drop`` (a list of clusters) and ``rename``
            (cluster -> name), each optional, or the JSON file that the page saved.

        Returns
        -------
        self : PseudoGroupLabeler

        Raises
        ------
        ValueError
            If a key is unknown, or as in `merge`, `drop` and `rename`. Nothing is changed then.
        """
        if isinstance(choices, str | os.PathLike):
            with open(choices, encoding="utf-8") as file:
                choices = json.load(file)
        unknown = sorted(set(choices) - set(_KINDS))
        if unknown:
            raise ValueError(f"Choices may hold {list(_KINDS)}, got {unknown} too.")
        # JSON has only strings as keys.
        names = {int(cluster): name for cluster, name in choices.get("rename", {}).items()}
        merged, dropped = choices.get("merge", []), choices.get("drop", [])
        self._check_clusters([c for clusters in merged for c in clusters] + list(dropped) + list(names))
        single = [clusters for clusters in merged if len(set(clusters)) < 2]
        if single:
            raise ValueError(f"`merge` needs at least two clusters, got {single[0]}.")
        into = {cluster: min(clusters) for clusters in merged for cluster in clusters}
        both = sorted(set(into) & set(dropped))
        if both:
            raise ValueError(f"Clusters {both} are both merged and dropped. Choose one of the two.")
        if self._numbers_in_use() == set(dropped):
            raise ValueError("All clusters are dropped: no group would be left.")
        for clusters in merged:
            self.merge(clusters)
        for cluster in dropped:
            self.drop(cluster)
        return self.rename(
            {into.get(cluster, cluster): name for cluster, name in names.items() if cluster not in dropped}
        )

    def _numbers_in_use(self):
        return set(np.unique(self.cluster_labels_[self.cluster_labels_ >= 0]).tolist())

    def _check_clusters(self, clusters):
        """Return cluster numbers; raise if one has no images, or means another cluster in every class."""
        check_is_fitted(self)
        if self.scope == "local":
            raise ValueError(
                "With scope='local', a number means another cluster in every class, so clusters cannot be chosen by "
                "number. Use scope='global'."
            )
        clusters = list(clusters)
        unknown = [cluster for cluster in clusters if cluster not in self._numbers_in_use()]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(clusters)} clusters have no images: {unknown[:5]}. Clusters with images are "
                f"{sorted(self._numbers_in_use())}."
            )
        return clusters

    def _renumber(self, becomes):
        """Give clusters new numbers, -1 included, in everything that was learned."""
        numbers = np.array([becomes.get(cluster, cluster) for cluster in range(self.n_clusters_)])
        class_codes, _ = decode_groups(self.group_labels_, self.n_clusters_)
        self._clusters = [clusters.renumbered(numbers) for clusters in self._clusters]
        # Number -1 is the last entry.
        numbers = np.append(numbers, -1)
        self.merged_into_ = [numbers[into] for into in self.merged_into_]
        self.cluster_labels_ = numbers[self.cluster_labels_]
        self.group_labels_ = encode_groups(class_codes, self.cluster_labels_, self.n_clusters_)
        return self
