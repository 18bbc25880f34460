"""What all displays share: a figure on demand, colors, and names that fit."""

# The palette of Okabe and Ito, whose colors differ under every kind of color blindness.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
INK, PALE, ALARM = "#1f2937", "#94a3b8", "#D55E00"


class Display:
    """Base class: `_draw(ax)` of a subclass draws, and returns the width and height of a figure of its own."""

    def plot(self, *, ax=None):
        """Draw the display, and return it.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.
        """
        try:
            from matplotlib import pyplot
        except ImportError as error:
            message = "Displays need matplotlib. Install it with `pip install 'skexmap[plot]'`."
            raise ImportError(message) from error
        self.ax_ = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        size = self._draw(self.ax_)
        if ax is None:
            self.figure_.set_size_inches(size)
            self.figure_.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        return self


def shortened(name, n_characters=36):
    """Return a name in one line of limited length, as text that matplotlib shows literally."""
    text = " ".join(str(name).split())
    if len(text) > n_characters:
        # Names of groups often differ only at the end.
        n_end = (n_characters - 1) // 2
        text = f"{text[: n_characters - 1 - n_end]}…{text[-n_end:]}"
    # Two dollars would enclose a formula.
    return text.replace("$", r"\$")


def group_name(label):
    """Return what a group is called: its name, or "group 3" if it has only a number."""
    if isinstance(label, str):
        return shortened(label)
    return "no group" if label == -1 else f"group {label}"
