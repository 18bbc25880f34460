"""Matplotlib is an optional dependency, imported when something is drawn."""


def require_pyplot(who):
    """Return `matplotlib.pyplot`.

    Parameters
    ----------
    who : str
        What needs it; named in the error.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(f"{who} needs matplotlib. Install it with `pip install matplotlib`.") from error
    return pyplot
