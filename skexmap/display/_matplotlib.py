"""Import of matplotlib, an optional dependency, when something is drawn."""


def require_pyplot(who):
    """Return `matplotlib.pyplot`."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(f"{who} needs matplotlib. Install it with `pip install matplotlib`.") from error
    return pyplot
