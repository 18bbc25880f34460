"""Clusters merged, dropped or named by hand."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from numbers import Integral

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skexmap._group_labels import decode_groups, encode_groups

# What choices may hold, and in which form.
_KINDS = {
    "merge": "a list of lists of clusters, such as [[0, 1]]",
    "drop": "a list of clusters, such as [2]",
    "rename": 'a dict, cluster -> name, such as {0: "watermark"}',
}


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
        TypeError
            If it is not a list of integers.
        """
        return self.apply_choices(
            {"merge": [as_list(clusters, "merge", "a list of clusters, such as [0, 1]")]}
        )

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
        TypeError
            If it is not an integer.
        """
        return self.apply_choices({"drop": [cluster]})

    def rename(self, names):
        """Name clusters, for reports. Clusters that are merged share their names, as ``"a + b"``.

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
        TypeError
            If it is not a dict with integers as keys.
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
        TypeError
            If the choices have another form, or a cluster is not an integer. Nothing is changed then.
        """
        if isinstance(choices, str | os.PathLike):
            with open(choices, encoding="utf-8") as file:
                choices = json.load(file)
        merged, dropped, names = read_choices(choices)
        into = self._checked(merged, dropped, names) | dict.fromkeys(dropped, -1)
        # Number -1 is the last entry.
        numbers = np.array([into.get(cluster, cluster) for cluster in range(self.n_clusters_)] + [-1])
        # The names that are given now replace those of before.
        self.cluster_names_ = renumbered_names(self.cluster_names_, numbers) | renumbered_names(
            names, numbers
        )
        class_codes, _ = decode_groups(self.group_labels_, self.n_clusters_)
        self._clusters = [clusters.renumbered(numbers[:-1]) for clusters in self._clusters]
        self.merged_into_ = [numbers[merged_into] for merged_into in self.merged_into_]
        self.cluster_labels_ = numbers[self.cluster_labels_]
        self.group_labels_ = encode_groups(class_codes, self.cluster_labels_, self.n_clusters_)
        return self

    @property
    def _changed_by_hand(self):
        """Whether clusters were merged or dropped after `fit`, whose numbers are then missing."""
        return len(set(chain.from_iterable(self.merged_into_)) - {-1}) < self.n_clusters_

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


def read_choices(choices):
    """Return the lists of clusters to merge, the clusters to drop, and the names by cluster; all clusters are ints."""
    if not isinstance(choices, Mapping):
        raise TypeError(f"Choices must be a dict with the keys {list(_KINDS)}, got {choices!r}.")
    unknown = sorted(map(str, set(choices) - set(_KINDS)))
    if unknown:
        raise ValueError(f"Choices may have the keys {list(_KINDS)}, but also have {unknown}.")
    names = choices.get("rename", {})
    if not isinstance(names, Mapping):
        raise TypeError(f"`rename` takes {_KINDS['rename']}, got {names!r}.")
    # JSON has only text as keys.
    keys = [int(key) if isinstance(key, str) and key.strip().isdecimal() else key for key in names]
    merged = [as_clusters(part, "merge") for part in as_list(choices.get("merge", []), "merge")]
    dropped = as_clusters(choices.get("drop", []), "drop")
    return merged, dropped, dict(zip(as_clusters(keys, "rename"), map(str, names.values()), strict=True))


def as_list(values, kind, form=None):
    """Return a list; raise TypeError for text, and for what cannot be iterated over."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"`{kind}` takes {form or _KINDS[kind]}, got {values!r}.")
    return list(values)


def as_clusters(values, kind):
    """Return a list of ints; raise TypeError for other numbers, and for True and False."""
    values = as_list(values, kind)
    wrong = [value for value in values if isinstance(value, bool) or not isinstance(value, Integral)]
    if wrong:
        raise TypeError(
            f"{len(wrong)} of {len(values)} clusters of `{kind}` are not integers: {wrong[:5]}. Each must be a number "
            f"in `cluster_labels_`. In choices, `{kind}` is {_KINDS[kind]}."
        )
    return [int(value) for value in values]


def renumbered_names(names, numbers):
    """Return the names by new number; names of the same cluster are joined, those of dropped ones are left out."""
    parts = {}
    for cluster in sorted(names):
        if numbers[cluster] >= 0:
            parts.setdefault(int(numbers[cluster]), []).append(names[cluster])
    return {cluster: " + ".join(dict.fromkeys(shared)) for cluster, shared in parts.items()}
