"""The report in words and in a table for the terminal."""

import textwrap

import numpy as np

from skexmap.report._ranking import LIKELY, LOOK, NOTHING, TOO_FEW, matters

WIDTH = 80
N_LINES = 20


def findings_of(rows, verdict):
    """Return the findings, each with a headline and a line for each thing that is known."""
    told = [row for row in rows if row["verdict"] in (LIKELY, LOOK)]
    if not told:
        return [finding_of_nothing(rows, verdict)]
    findings, seen = [], set()
    for row in told:
        if row["key"] not in seen:
            seen.add(row["key"])
            findings.append(finding(row, [other for other in rows if other["key"] == row["key"]]))
    return findings


def finding_of_nothing(rows, verdict):
    """Return what there is to say without a finding; the first line is the verdict."""
    n_untold = sum(row["verdict"] == TOO_FEW for row in rows)
    too_few = f"{n_untold} of {len(rows)} groups are too small for a gap in accuracy to be seen or excluded."
    if verdict == TOO_FEW:
        return f"Not enough images to tell.\n{too_few} Pass more images."
    lines = []
    differing = [row for row in rows if matters(row)]
    if differing:
        worst = min(differing, key=lambda row: row["net_gap"])
        lines.append(
            f"{len(differing)} of {len(rows)} groups differ in accuracy from the rest of their class (most: "
            f"{worst['class']!r} in {clipped_name(worst)}, {worst['net_accuracy']:.0%} against "
            f"{worst['net_accuracy_outside']:.0%}), but no place that the model looks at explains it."
        )
    if n_untold:
        lines.append(too_few)
    return "\n".join(["Nothing to see here: no cluster is a likely shortcut.", *lines])


def finding(row, rows):
    """Return what is known of a cluster: where it looks, on what it is right and wrong, and what decides."""
    place, target = row["place"], row["target"]
    of_area = "" if "channel" in place else f", on {row['area']:.0%} of the area"
    lines = [
        f"{row['verdict'].capitalize()}: the {place}, for {target!r} ({clipped_name(row)}).",
        f"{row['share']:.0%} of the cluster's relevance sits there{of_area}; in other images it is "
        f"{row['share_outside']:.0%}.",
    ]
    lines += [
        f"Among {other['class']!r}, the network is right on {other['net_accuracy']:.0%} of the {other['size']} images "
        f"in the cluster and on {other['net_accuracy_outside']:.0%} of the {other['size_outside']} others."
        for other in rows
        if matters(other)
    ]
    content = "the colors" if "channel" in place else "this place"
    lines.append(
        f"With {content} taken from the cluster's images, {row['exchanged']:.0%} of {row['n_takers']} other images "
        f"become {target!r}; with each other's, {row['exchanged_control']:.0%} do."
    )
    return "\n".join(lines)


def left_out(gallery):
    """Return how many images are in no cluster, as a sentence; nothing if all are in one."""
    clusters = gallery.explained.clusters
    n_left_out = int(np.sum(clusters < 0))
    if not n_left_out:
        return ""
    dropped = any(-1 in into for into in getattr(gallery.parts.labeler, "merged_into_", ()))
    reason = ", because theirs was dropped" if dropped else ""
    return f"{n_left_out} of {len(clusters)} images are in no cluster{reason}."


def report_text(rows, findings, left_out, retrained_on):
    """Return the whole report for a terminal."""
    lines = []
    for text in findings:
        headline, *details = text.split("\n")
        lines += [textwrap.fill(headline, WIDTH, subsequent_indent="  ")]
        lines += [textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="  ") for line in details]
    header = ["class", "cluster", "size", "net", "95%", "gap", "refit", "stable", "looks at", ""]
    cells = [header] + [
        [
            str(row["class"]),
            row["cluster_name"].removeprefix("cluster "),
            str(row["size"]),
            number(row["net_accuracy"]),
            f"{number(row['net_lower'])}-{number(row['net_upper'])}",
            number(row["net_gap"], "+.2f"),
            number(row["retrained_accuracy"]),
            number(row["stability"]),
            row["place"].removesuffix(" corner").removesuffix(" channel"),
            {LIKELY: "shortcut?", LOOK: "look", NOTHING: "", TOO_FEW: "too few"}[row["verdict"]],
        ]
        for row in rows[:N_LINES]
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    # Names share the room that the other columns leave.
    room = WIDTH - sum(widths[2:]) - len(header) + 1
    widths[1] = min(widths[1], max(room // 2, room - widths[0]))
    widths[0] = min(widths[0], room - widths[1])
    cells = [[*map(clipped, line[:2], widths[:2]), *line[2:]] for line in cells]
    sides = "<<>>>>>><<"
    table = [
        " ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True))
        for line in cells
    ]
    if len(rows) > N_LINES:
        table.append(f"... and {len(rows) - N_LINES} groups more: see `to_frame` or `save`")
    if left_out:
        lines += ["", left_out]
    head = f"Accuracy of the net, and of the refitted last layer ({retrained_on}):"
    lines += ["", *textwrap.wrap(head, WIDTH), ""]
    return "\n".join([*lines, *(line.rstrip() for line in table)])


def number(value, form=".2f"):
    """Return a number without its leading zero; a dash if it is not known."""
    if value is None or np.isnan(value):
        return "-"
    return format(value, form).replace("0.", ".", 1)


def clipped(label, width):
    """Return text of at most `width` printable characters."""
    text = "".join(char if char.isprintable() else "?" for char in str(label))
    return text if len(text) <= width else text[: width - 1] + "…"


def clipped_name(row):
    """Return the name of a row's cluster, as a finding shows it."""
    return clipped(row["cluster_name"], 60)
