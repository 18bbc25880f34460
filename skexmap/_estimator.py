"""What every estimator of skexmap shares: scikit-learn's callbacks, and links from its HTML to our documentation."""

import inspect
import itertools
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:
        """Stands in for scikit-learn's mixin before 1.9, which had no callbacks."""


class EstimatorMixin(CallbackSupportMixin):
    """Callbacks (from scikit-learn 1.9 on) and the link from the HTML representation to the reference."""

    def _get_doc_link(self):
        return documentation_of(type(self))


def documentation_of(cls):
    """Return the address of a class's documentation: its reference page, or the file with its docstring.

    Parameters
    ----------
    cls : type

    Returns
    -------
    address : str
        A page below `documentation_url`, named as Sphinx's autosummary names it. Where nothing is published, the
        ``file:`` address of the installed source, which holds the docstring that the page would be made of. Empty for
        a class of somebody else's, and where the environment variable ``SKEXMAP_DOCUMENTATION_URL`` is set but empty.
    """
    parts = cls.__module__.split(".")
    if parts[0] != "skexmap":
        return ""
    url = documentation_url()
    if url:
        public = ".".join(itertools.takewhile(lambda part: not part.startswith("_"), parts))
        return f"{url}/generated/{public}.{cls.__name__}.html"
    source = Path(inspect.getfile(cls))
    # None is "nothing published"; a package in a zip archive has no file to open.
    return source.as_uri() if url is None and source.is_file() else ""


def documentation_url():
    """Return where the documentation is published; None if it is not, empty if the user wants no links.

    The environment variable ``SKEXMAP_DOCUMENTATION_URL`` decides, else the address ``Documentation`` in the package's
    metadata.
    """
    url = os.environ.get("SKEXMAP_DOCUMENTATION_URL")
    return published_url() if url is None else url.rstrip("/")


@cache
def published_url():
    """Return the address ``Documentation`` of the package's metadata, or None."""
    try:
        addresses = metadata("skexmap").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    named = dict(address.split(", ", 1) for address in addresses)
    return named.get("Documentation", "").rstrip("/") or None
