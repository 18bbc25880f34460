"""Clusters merged, dropped or named by hand."""

import json
import os
from collections import Counter
from itertools import chain

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skexmap._group_labels import decode_groups, encode_groups

_KINDS = ("merge", "drop", "rename")


class ClusterChoices:
    """Changes of a fitted labeler's clusters by hand. The other clusters keep their numbers."""

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
        return self.apply_choices({"merge": [clusters]})

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
        return self.apply_choices({"drop": [cluster]})

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
        return self.apply_choices({"rename": names})

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
            raise ValueError(f"Choices may have the keys {list(_KINDS)}, but also have {unknown}.")
        merged, dropped = choices.get("merge", []), list(choices.get("drop", []))
        # JSON has only strings as keys.
        names = {int(cluster): str(name) for cluster, name in choices.get("rename", {}).items()}
        into = self._checked(merged, dropped, names)
        self.cluster_names_ = self.cluster_names_ | {
            into.get(cluster, cluster): name for cluster, name in names.items() if cluster not in dropped
        }
        into |= dict.fromkeys(dropped, -1)
        # Number -1 is the last entry.
        numbers = np.array([into.get(cluster, cluster) for cluster in range(self.n_clusters_)] + [-1])
        class_codes, _ = decode_groups(self.group_labels_, self.n_clusters_)
        self._clusters = [clusters.renumbered(numbers[:-1]) for clusters in self._clusters]
        self.merged_into_ = [numbers[merged_into] for merged_into in self.merged_into_]
        self.cluster_labels_ = numbers[self.cluster_labels_]
        self.group_labels_ = encode_groups(class_codes, self.cluster_labels_, self.n_clusters_)
        return self

    def _checked(self, merged, dropped, names):
        """Return the number that each merged cluster gets; raise if a choice cannot be made."""
        check_is_fitted(self)
        if self.scope == "local":
            raise ValueError(
                "With scope='local', a number means another cluster in every class, so clusters cannot be chosen by "
                "number. Use scope='global'."
            )
        chosen = [*chain.from_iterable(merged), *dropped, *names]
        in_use = set(np.unique(self.cluster_labels_[self.cluster_labels_ >= 0]).tolist())
        unknown = [cluster for cluster in chosen if cluster not in in_use]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(chosen)} clusters have no images: {unknown[:5]}. Clusters with images are "
                f"{sorted(in_use)}."
            )
        for clusters in merged:
            if len(set(clusters)) < 2:
                raise ValueError(f"`merge` needs at least two clusters, got {list(clusters)}.")
        into = {cluster: min(clusters) for clusters in merged for cluster in clusters}
        uses = Counter([*chain.from_iterable(map(set, merged)), *set(dropped)])
        twice = sorted(cluster for cluster, n_uses in uses.items() if n_uses > 1)
        if twice:
            raise ValueError(
                f"Clusters {twice} are both merged and dropped, or merged twice. Choose one of the two."
            )
        if in_use == set(dropped):
            raise ValueError("All clusters are dropped: no group would be left.")
        return into
