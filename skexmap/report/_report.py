"""ShortcutReport: which cluster is likely a shortcut, and which images show it."""

import csv
import io
from numbers import Integral

from sklearn.utils import check_scalar

from skexmap._validation import check_group_labels
from skexmap.report._gallery import Gallery
from skexmap.report._page import notebook_html, page_html
from skexmap.report._places import mean_maps
from skexmap.report._ranking import ranked, verdict_of, verdict_of_all
from skexmap.report._read import cross_fitted, explain, parts_of, stability_of
from skexmap.report._rows import add_places, add_retrained, add_true_groups, checked_classes, rows_of_groups
from skexmap.report._text import findings_of, left_out, report_text
from skexmap.report._virelay import write_virelay

# Entries of a row that are only needed to make the report.
_INTERNAL = {"code", "key", "group", "n_takers"}


class ShortcutReport:
    r"""Which cluster of heatmaps is likely a shortcut, where the model looks in it, and which images show it.

    Create it with `from_estimator`. ``print`` it for the ranking, or `save` it as a page with images.

    Attributes
    ----------
    verdict : str
        ``"likely a shortcut"``, ``"worth a look"``, ``"nothing to see here"`` or ``"not enough images to tell"``.
    findings : list of str
        What was found, the verdict first. Each has a headline, and a line for each thing that is known.
    rows : list of dict
        One for each class x cluster, the likeliest shortcut first. Rows of the same cluster stay together, because a
        shortcut is usually right in one class and wrong in another. They hold

        - ``class``, ``cluster``, ``cluster_name``, ``size``;
        - ``net_accuracy``, ``net_lower``, ``net_upper``: accuracy of the frozen model with its 95% Wilson interval;
        - ``size_outside``, ``net_accuracy_outside``, ``net_gap``, ``p_value``: the rest of the class, the gap to
          it, and Fisher's exact test, Bonferroni-corrected over the rows;
        - ``retrained_accuracy``, ``retrained_lower``, ``retrained_upper``, ``retrained_size``: the retrained last
          layer, on images that it was not fitted on;
        - ``stability``: mean overlap (Jaccard) with the most similar cluster of subsamples;
        - ``place``, ``share``, ``share_outside``, ``area``: where the relevance of the cluster is most concentrated,
          its share there, that of other images, and the share of the area;
        - ``center_x``, ``center_y``, ``spread``: center of the mean map, from the left and from the top, and its
          standard deviation, in parts of the image's sides;
        - ``target``, ``exchanged``, ``exchanged_control``: the class that the model predicts most in the cluster, and
          the share of other images that it assigns to this class once they have the content of that place, from
          images of the cluster or, for comparison, from each other;
        - ``dependence``, ``concentration``, ``score``, ``verdict``: see Notes;
        - ``true_group``, ``purity``: the most frequent group of `group_labels`, and its share.

    retrained_on : str
        On which images the retrained last layer was measured, or why it was not.

    See Also
    --------
    skexmap.metrics.group_report : Accuracies of groups that are known.

    Notes
    -----
    The score of a cluster is

    .. math:: s = d \cdot c \cdot e.

    *Dependence* d is half the span of the gaps: how much more often the model is right in the cluster than in the rest
    of the class where it helps most, plus how much less often where it hurts most. Only gaps of at least 0.1 with
    a p-value below 0.01 count. *Concentration* c is the share of the cluster's relevance in a place, minus that of
    other images, divided by the square root of the place's area. Places are windows of a seventh, a fifth and a third
    of the side, the border, and the color channels. *Exchange* e is measured on the model: at most 50 images outside
    the cluster get the content of the place from images of the cluster. Only images outside that the model does not
    already assign to the cluster's main class take part. e is the share that it then assigns to this class, minus the
    share with the content of each other. For a channel, the colors are exchanged.

    All three are needed. The maps of images that the model gets wrong often differ from those that it gets right, so a
    gap alone proves little. Without a gap the place does no harm. A row whose gap counts is "likely a shortcut" from
    s = 0.2 and "worth a look" from s = 0.1, and below that there is "nothing to see here". The same holds for a row
    whose gap does not count, unless the 95% interval of the gap (Newcombe) reaches beyond 0.3 or -0.3: then there are
    "not enough images to tell". If all images of a class are in one cluster, the interval is that of two halves of
    them.

    `verdict` is "likely a shortcut" if that of any row is, else "worth a look" if that of any row is. Otherwise it is
    "not enough images to tell" if this is the verdict on more than half of the images, else "nothing to see here".

    The clusters were formed on the same images, and merged by a similar test. So p-values of clusters are too small on
    average. The report points at images: look at them.

    Examples
    --------
    A net learns that one class is usually green and the other red:

    >>> import torch
    >>> from skexmap import ExMapClassifier
    >>> from skexmap.datasets import make_colored_digits
    >>> from skexmap.report import ShortcutReport
    >>> digits = make_colored_digits(n_copies=1, correlation=0.95, random_state=0)
    >>> images, labels = torch.from_numpy(digits.train.data), torch.from_numpy(digits.train.target)
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 5, stride=3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(512, 2)
    ... )
    >>> optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    >>> for _ in range(40):
    ...     optimizer.zero_grad()
    ...     torch.nn.functional.cross_entropy(net(images), labels).backward()
    ...     _ = optimizer.step()
    >>> X, y = digits.validation.data, digits.validation.target
    >>> exmap = ExMapClassifier(net, random_state=0).fit(X, y)
    >>> report = ShortcutReport.from_estimator(exmap, X, y)
    >>> report.verdict
    'likely a shortcut'
    >>> sorted({row["place"] for row in report.rows})
    ['green channel', 'red channel']
    """

    def __init__(self, groups, verdict, findings, retrained_on, gallery):
        self.rows = [
            {name: value for name, value in group.items() if name not in _INTERNAL} for group in groups
        ]
        self.verdict = verdict
        self.findings = findings
        self.retrained_on = retrained_on
        self._groups = groups
        self._gallery = gallery

    @classmethod
    def from_estimator(
        cls, estimator, X, y, *, group_labels=None, X_test=None, y_test=None, n_folds=5, n_resamples=5
    ):
        """Report on a fitted estimator.

        Parameters
        ----------
        estimator : ExMapClassifier, Pipeline or search
            Fitted. A pipeline has the steps ``HeatmapTransformer(return_embedding=True)``, a clusterer and a strategy.
        X : as for `ExMapClassifier.fit`
            Images: those of `fit`, or others.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels : array-like of shape (n_samples,) or None, default=None
            True groups. They are only shown. They do not affect the verdict.
        X_test, y_test : as X and y, default=None
            Images that were not used in `fit`, to measure the retrained last layer. If None, it is cross-fitted on X.
        n_folds : int, default=5
            Folds of the cross-fit: at least 2, and not more than there are images (larger numbers are cut).
        n_resamples : int, default=5
            Subsamples that are clustered again for the stability, each of 80% of the images and at most 4,000; with 0,
            it is not measured.

        Returns
        -------
        report : ShortcutReport

        Raises
        ------
        ValueError
            If the estimator has no clusters, lengths differ, y is missing or holds a class that `fit` did not see, only
            one of `X_test` and `y_test` is given, `n_folds` is below 2, or `n_resamples` is negative.
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        """
        check_scalar(n_folds, "n_folds", Integral, min_val=2)
        check_scalar(n_resamples, "n_resamples", Integral, min_val=0)
        if (X_test is None) != (y_test is None):
            given, missing = ("X_test", "y_test") if y_test is None else ("y_test", "X_test")
            raise ValueError(f"`{given}` is given without `{missing}`. Pass both, or neither.")
        parts = parts_of(estimator)
        classes, y = checked_classes(parts, X, y)
        if group_labels is not None:
            group_labels = check_group_labels(group_labels, len(y))
        explained = explain(parts, X, y, classes)
        keys = explained.keys()
        means, means_outside = mean_maps(explained.maps, keys)

        rows = rows_of_groups(explained, keys, classes, getattr(parts.labeler, "cluster_names_", {}))
        retrained, origin = cross_fitted(parts.strategy, explained, y, n_folds)
        tested, correct = explained, None if retrained is None else retrained == y
        if X_test is not None:
            _, y_test = checked_classes(parts, X_test, y_test)
            tested = explain(parts, X_test, y_test, classes)
            correct = parts.strategy.predict(tested.head_blocks()) == y_test
        add_retrained(rows, tested, correct)
        if X_test is not None:
            # Images of no group are not counted.
            origin = f"on {sum(row['retrained_size'] for row in rows)} test images"
        stability = stability_of(parts.labeler, explained, keys, n_resamples)
        for row in rows:
            row["stability"] = float(stability[row["key"]])
        add_places(rows, parts, X, explained, keys, classes, means, means_outside)
        for row in rows:
            row["verdict"] = verdict_of(row)
        if group_labels is not None:
            add_true_groups(rows, explained, group_labels)

        rows = ranked(rows)
        verdict = verdict_of_all(rows)
        gallery = Gallery(parts, X, classes, explained, keys, means, retrained)
        return cls(rows, verdict, findings_of(rows, verdict), origin, gallery)

    def __str__(self):
        return report_text(self._groups, self.findings, left_out(self._gallery), self.retrained_on)

    def __repr__(self):
        return f"<ShortcutReport of {len(self.rows)} groups: {self.verdict}>"

    def _repr_html_(self):
        return notebook_html(self)

    def to_frame(self):
        """Return the rows as a data frame.

        Returns
        -------
        frame : pandas.DataFrame
            One line for each class x cluster, ranked, with the columns of `rows`.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "ShortcutReport.to_frame needs pandas. Install it with `pip install pandas`, or use `to_csv`."
            ) from error
        return pd.DataFrame(self.rows)

    def to_csv(self, path=None):
        """Write the rows as comma-separated values.

        Parameters
        ----------
        path : str or path-like, default=None
            File to write.

        Returns
        -------
        text : str or None
            The text if `path` is None.
        """
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        if path is None:
            return text.getvalue()
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
        return None

    def save(self, path, *, n_examples=4):
        """Write a page with the ranking, the images of every group and the table, as one file without network.

        It needs Jinja2 and Pillow (``pip install 'skexmap[report]'``). The images that it shows are read again.

        Parameters
        ----------
        path : str or path-like
            File to write, usually ``report.html``.
        n_examples : int, default=4
            Typical, wrong and random images of each group, as many of each. With many groups it takes fewer, at most
            900 images in all. With 0, it shows none.

        Raises
        ------
        ImportError
            If Jinja2 or Pillow is not installed.
        ValueError
            If `n_examples` is negative.
        """
        check_scalar(n_examples, "n_examples", Integral, min_val=0)
        text = page_html(self, n_examples)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def to_virelay(self, folder):
        """Write a project that ViRelAy [1]_ opens: all images, heatmaps and clusters.

        It needs h5py (``pip install 'skexmap[virelay]'``). All images are read, batch by batch.

        Parameters
        ----------
        folder : str or path-like
            Folder to write to; it is made if it does not exist.

        Returns
        -------
        path : pathlib.Path
            The project file. Open it with ``virelay`` and its path.

        Raises
        ------
        ImportError
            If h5py is not installed.

        References
        ----------
        .. [1] C. Anders, D. Neumann, W. Samek, K.-R. Müller, S. Lapuschkin, "Software for Dataset-wide XAI: From Local
           Explanations to Global Insights with Zennit, CoRelAy, and ViRelAy", arXiv:2106.13200.
        """
        return write_virelay(folder, self._gallery)
