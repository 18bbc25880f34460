"""Sphinx settings: `make docs` builds the site in docs/_build/html, offline, and fails on a warning."""

import sys
from importlib import metadata
from pathlib import Path

DOCS = Path(__file__).parent
# The examples import each other.
sys.path.insert(0, str(DOCS.parent / "examples"))

project = "skexmap"
author = "the skexmap developers"
copyright = author
release = metadata.version("skexmap")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "results", "auto_examples/*.ipynb", "auto_examples/*.py"]
highlight_language = "none"
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_title = "skexmap"
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    # A site that is built offline has no older versions, and no icon from elsewhere.
    "icon_links": [],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_show_sourcelink = False

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    # Only the numbered examples; the others take minutes.
    "filename_pattern": r"plot_\d\d_",
    "ignore_pattern": r"^(?!.*plot_\d\d_).*\.py$",
    "within_subsection_order": "FileNameSortKey",
    "nested_sections": False,
    "download_all_examples": False,
    "abort_on_example_error": True,
    "min_reported_time": 0,
    "show_memory": False,
    "matplotlib_animations": False,
}
