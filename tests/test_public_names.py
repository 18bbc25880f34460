"""The names that a reader of the first pages types."""

import importlib
import re
from pathlib import Path

import pytest

import skexmap

ROOT = Path(__file__).parent.parent
FIRST_PAGES = [page for page in (ROOT / "README.md", ROOT / "docs" / "index.md") if page.exists()]


def imports(text):
    """Return the pairs (module, name) that a page imports from skexmap or writes out as skexmap.Name."""
    found = {("skexmap", name) for name in re.findall(r"\bskexmap\.([A-Z]\w*)", text)}
    # An import may go on behind a bracket, or a doctest's "...".
    text = re.sub(r"\n\.\.\. ", " ", text)
    for module, bracketed, line in re.findall(r"from (skexmap[\w.]*) import (?:\(([^)]*)\)|([\w, ]+))", text):
        found |= {
            (module, name.split(" as ")[0].strip()) for name in (bracketed or line).split(",") if name.strip()
        }
    return found


@pytest.mark.parametrize("page", FIRST_PAGES, ids=lambda page: page.name)
def test_every_name_that_a_first_page_imports_exists(page):
    named = imports(page.read_text())
    assert named
    missing = [(module, name) for module, name in named if not hasattr(importlib.import_module(module), name)]
    assert not missing


@pytest.mark.parametrize(
    "name",
    [
        "DFRClassifier",
        "DFRClassifierCV",
        "EigengapSpectralClustering",
        "EmbeddingTransformer",
        "ExMapClassifier",
        "HeatmapTransformer",
        "JTTReweighter",
        "PseudoGroupLabeler",
        "export_model",
        "make_exmap_pipeline",
    ],
)
def test_the_method_is_imported_from_the_top(name):
    assert hasattr(skexmap, name)
    assert name in skexmap.__all__


def test_imports_are_read_off_a_page_in_every_spelling():
    page = """
    >>> from skexmap import A, B as C
    >>> from skexmap.metrics import (
...     d,
...     e,
... )
    `help(skexmap.F)` and skexmap.groups
    """
    assert imports(page) == {
        *(("skexmap", name) for name in "ABF"),
        *(("skexmap.metrics", name) for name in "de"),
    }
