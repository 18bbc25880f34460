"""The report as a page: everything that the templates in `templates` show."""

import html
import re
from functools import partial

import numpy as np

from skexmap.report._ranking import NOTHING, matters
from skexmap.report._text import clipped_name, left_out, number

# The plot of eigenvalues, in the units of its view box.
_WIDTH, _HEIGHT, _MARGIN = 420, 200, 34
# Characters of a path on a card.
_PATH_WIDTH = 36
# A cluster whose accuracy differs is not cleared, although nothing is found at its place.
UNEXPLAINED = "accuracy differs, but this place does not explain it"


def page_html(report, n_examples):
    """Return the page of `ShortcutReport.save`."""
    templates = environment("ShortcutReport.save", report)
    gallery = report._gallery
    groups = [
        {"row": row, "cards": cards}
        for row, cards in zip(report._groups, gallery.examples(report._groups, n_examples), strict=False)
    ]
    return templates.get_template("page.html").render(
        report=report,
        groups=groups,
        n_cards=sum(len(group["cards"]) for group in groups),
        clusters=clusters_of(report),
        classes=list(dict.fromkeys(row["class"] for row in report.rows)),
        columns=list(report.rows[0]),
        left_out=left_out(gallery),
        plots=[spectrum(name, clusterer) for name, clusterer in clusterers_of(gallery.parts.labeler)],
        local=gallery.explained.local,
        choosable=hasattr(gallery.parts.labeler, "apply_choices") and not gallery.explained.local,
    )


def notebook_html(report):
    """Return the report for a notebook; as plain text if Jinja2 or Pillow is not installed."""
    try:
        templates = environment("ShortcutReport", report)
    except ImportError:
        return f"<pre>{html.escape(str(report))}</pre>"
    return templates.get_template("notebook.html").render(
        report=report, clusters=clusters_of(report), left_out=left_out(report._gallery)
    )


def environment(who, report):
    """Return the templates; raise if something is missing that they need."""
    try:
        import jinja2
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{who} needs Jinja2 and Pillow. Install them with `pip install 'skexmap[report]'`."
        ) from error
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("skexmap.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    names = {text for row in report._groups for text in (repr(row["class"]), clipped_name(row))}
    templates.filters |= {"number": cell, "end": end_of, "isolated": partial(isolated, names=names)}
    return templates


def isolated(text, names):
    """Return a finding as markup in which names that may run from right to left turn no text around them."""
    from markupsafe import Markup, escape

    turning = sorted((str(escape(name)) for name in names if not name.isascii()), key=len, reverse=True)
    text = str(escape(text))
    return Markup(re.sub("|".join(map(re.escape, turning)), r"<bdi>\g<0></bdi>", text) if turning else text)


def end_of(path):
    """Return the end of a long path, from a separator on if there is one."""
    if len(path) <= _PATH_WIDTH:
        return path
    end = path[-_PATH_WIDTH:]
    separator = re.search(r"[/\\]", end)
    return "…" + end[separator.start() if separator else 0 :]


def cell(value):
    """Return a value of the table as text."""
    if isinstance(value, float):
        return "–" if np.isnan(value) else f"{value:.3g}"
    return str(value)


def clusters_of(report):
    """Return each cluster once, ranked, with its rows and the picture of its mean map."""
    clusters = {}
    for row in report._groups:
        cluster = clusters.setdefault(row["key"], {"row": row, "rows": [], "size": 0})
        cluster["rows"].append(row)
        cluster["size"] += row["size"]
    for key, cluster in clusters.items():
        cluster["picture"] = report._gallery.mean_picture(key)
        cluster["word"] = word_of(cluster["rows"])
    return list(clusters.values())


def word_of(rows):
    """Return the verdict on a cluster in words."""
    verdict = rows[0]["verdict"]
    return UNEXPLAINED if verdict == NOTHING and any(map(matters, rows)) else verdict


def clusterers_of(labeler):
    """Return the clusterers with eigenvalues, by name."""
    inner = getattr(labeler, "clusterers_", [labeler])
    names = [f"Class {name}" for name in labeler.classes_] if len(inner) > 1 else ["All images"]
    return [
        (name, clusterer)
        for name, clusterer in zip(names, inner, strict=True)
        if hasattr(clusterer, "eigenvalues_")
    ]


def spectrum(name, clusterer):
    """Return the eigenvalues as points of a plot, with the gap that sets the number of clusters."""
    values = clusterer.eigenvalues_
    top = float(values.max()) or 1.0
    points = [
        (
            _MARGIN + (_WIDTH - 2 * _MARGIN) * place / max(1, len(values) - 1),
            _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * value / top,
        )
        for place, value in enumerate(values.tolist())
    ]
    chosen = clusterer.n_clusters_
    return {
        "name": name,
        "points": points,
        "n_clusters": chosen,
        "gap": points[chosen - 1 : chosen + 1],
        "width": _WIDTH,
        "height": _HEIGHT,
        "margin": _MARGIN,
        "top": number(top),
        "eigenvalues": ", ".join(number(value) for value in values.tolist()),
    }
