"""What all displays share: matplotlib on demand, colors, and names that fit."""

from skexmap.metrics._report import name_of

# The palette of Okabe and Ito, whose colors differ under every kind of color blindness.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v")
INK, PALE, ALARM = "#1f2937", "#94a3b8", "#D55E00"


def axes_for(display, ax, width, height):
    """Return the axes to draw in: those given, or those of a new figure of a size in inches."""
    who = f"{type(display).__name__}.plot"
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            f"{who} needs matplotlib. Install it with `pip install 'skexmap[plot]'`."
        ) from error
    if ax is None:
        _, ax = pyplot.subplots(figsize=(width, height), layout="constrained")
    elif not isinstance(ax, pyplot.Axes):
        raise TypeError(f"{who} draws in one matplotlib Axes, but `ax` is of type {type(ax).__name__}.")
    display.figure_, display.ax_ = ax.figure, ax
    return ax


def shortened(name, n_characters=36):
    """Return a name in one line of limited length, as text that matplotlib shows literally."""
    text = " ".join(str(name).split())
    if len(text) > n_characters:
        # Names of groups often differ only at the end.
        n_end = (n_characters - 1) // 2
        text = f"{text[: n_characters - 1 - n_end]}…{text[-n_end:]}"
    # Two dollars would enclose a formula.
    return text.replace("$", r"\$")


def shortened_name(label, names=None, n_characters=36):
    """Return the shortened name of a label; `names` is as in `skexmap.metrics.group_report`."""
    return shortened(name_of(label, names), n_characters)


def group_name(label, cluster, class_names=None, cluster_names=None, separator="\n"):
    """Return the shortened name of a class x cluster; a cluster without a name is called by its number."""
    name = name_of(cluster, cluster_names)
    name = f"cluster {name}" if name.removeprefix("-").isdigit() else name
    return f"{shortened_name(label, class_names)}{separator}{shortened(name)}"
