"""What every estimator of skexmap shares: scikit-learn's callbacks, and links from its HTML to our documentation."""

from functools import cache
from importlib.metadata import PackageNotFoundError, metadata

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:
        """Stands in for scikit-learn's mixin before 1.9, which had no callbacks."""


class EstimatorMixin(CallbackSupportMixin):
    """Callbacks (from scikit-learn 1.9 on) and the link from the HTML representation to the reference page."""

    _doc_link_module = "skexmap"

    @property
    def _doc_link_template(self):
        return f"{documentation_url()}/generated/{{estimator_module}}.{{estimator_name}}.html"

    def _get_doc_link(self):
        # Without a published address there is nothing to link to.
        return super()._get_doc_link() if documentation_url() else ""


@cache
def documentation_url():
    """Return the address of the documentation, as the package's metadata has it; empty if there is none."""
    try:
        addresses = metadata("skexmap").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    named = dict(address.split(", ", 1) for address in addresses)
    return named.get("Documentation", "").rstrip("/")
