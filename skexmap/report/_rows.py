"""The rows of a report: one for each class x cluster, with what is measured on it."""

import numpy as np

from skexmap._group_labels import decode_groups
from skexmap._validation import codes_of_known_classes, in_a_group
from skexmap.metrics._report import wilson_interval
from skexmap.report._exchange import Exchanger
from skexmap.report._places import center_and_spread, concentration, most_concentrated, places_of
from skexmap.report._ranking import compare, correct_for_number, dependence


def checked_classes(parts, X, y):
    """Return the classes of `fit`, and y as an array; raise if lengths differ or a class is unknown."""
    classes = np.asarray(parts.strategy.classes_)
    return classes, classes[codes_of_known_classes(y, classes, len(X))]


def rows_of_groups(explained, keys, classes, names):
    """Return a row for each class x cluster with images, with the model's accuracy there and outside."""
    groups, n_clusters = explained.groups(), int(explained.clusters.max()) + 1
    correct = explained.predicted == explained.class_codes
    rows = []
    for group in np.unique(groups[groups >= 0]):
        code, cluster = (int(part) for part in decode_groups(group, n_clusters))
        key = int(keys[np.flatnonzero(groups == group)[0]])
        name = names.get(cluster, f"cluster {cluster}")
        row = {"class": classes.tolist()[code], "cluster": cluster, "cluster_name": name}
        row |= {"code": code, "key": key, "group": int(group)}
        rows.append(row | compare(correct, keys == key, explained.class_codes == code))
    correct_for_number(rows)
    return rows


def add_places(rows, parts, X, explained, keys, classes, means, means_outside):
    """Add where the relevance of each cluster sits, and how far this place decides the predictions."""
    places = places_of(explained.maps.shape[1:])
    rng = np.random.RandomState(0)
    for key in sorted({row["key"] for row in rows}):
        rows_of_key = [row for row in rows if row["key"] == key]
        depends = dependence(rows_of_key)
        candidates = most_concentrated(places, means[key], means_outside[key])
        place, exchanged, control, n_takers = candidates[0], np.nan, np.nan, 0
        counts = np.bincount(explained.predicted[(keys == key) & (explained.predicted >= 0)])
        target = int(counts.argmax()) if len(counts) else rows_of_key[0]["code"]
        if depends:
            exchanger = Exchanger(
                parts.transformer, X, classes, explained.predicted, keys == key, target, rng
            )
            place, exchanged, control = exchanger.most_decisive(candidates, means[key], means_outside[key])
            n_takers = exchanger.n_takers
        value = concentration(place, means[key], means_outside[key])
        effect = np.nan_to_num(max(exchanged - control, 0))
        center_x, center_y, spread = center_and_spread(means[key])
        for row in rows_of_key:
            row |= {
                "place": place.name,
                "share": place.share(means[key]),
                "share_outside": place.share(means_outside[key]),
                "area": float(place.area),
                "center_x": center_x,
                "center_y": center_y,
                "spread": spread,
                "target": classes.tolist()[target],
                "exchanged": exchanged,
                "exchanged_control": control,
                "n_takers": n_takers,
                "dependence": depends,
                "concentration": value,
                "score": float(np.clip(depends * value * effect, 0, 1)),
            }


def add_retrained(rows, explained, correct):
    """Add the accuracy of the retrained last layer; NaN if it is not known."""
    for row in rows:
        answers = np.array([]) if correct is None else correct[explained.members(row)]
        accuracy = lower = upper = np.nan
        if len(answers):
            accuracy = float(answers.mean())
            lower, upper = map(float, wilson_interval(accuracy, len(answers)))
        row |= {
            "retrained_size": len(answers),
            "retrained_accuracy": accuracy,
            "retrained_lower": lower,
            "retrained_upper": upper,
        }


def add_true_groups(rows, explained, group_labels):
    """Add the most frequent true group and its share; None and NaN if no image of a row belongs to a group."""
    belongs = in_a_group(group_labels)
    for row in rows:
        members = explained.members(row) & belongs
        labels, counts = np.unique(group_labels[members], return_counts=True)
        row |= {
            "true_group": labels.tolist()[counts.argmax()] if len(labels) else None,
            "purity": float(counts.max() / counts.sum()) if len(labels) else np.nan,
        }
