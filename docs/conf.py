"""Sphinx: ``make docs``. Offline; warnings are errors."""

import os
import sys
from pathlib import Path

import jaxtyping  # noqa: F401  (signatures with the shapes of arrays)
import plotly

from criticality import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "criticality"
author = "The criticality authors"
copyright = "2026, The criticality authors"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinxcontrib.bibtex",
    "sphinx_click",
    "sphinx_copybutton",
    "verdicts",
    "explorers",
    "accessibility",
    "signatures",
]
exclude_patterns = [
    "package.md",
    "_build",
    "_ext",
    "data",
    "claims/data",
    "jupyter_execute",
    "studies/training_table.md",
]
source_suffix = {".md": "myst-nb", ".rst": "restructuredtext"}

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
# Each page takes a process of its own: the tests run the code of most of them in theirs.
nb_execution_excludepatterns = os.environ.get("CRITICALITY_NOT_EXECUTED", "").split()
nb_merge_streams = True
nb_output_stderr = "remove"

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "unsrt"
bibtex_reference_style = "author_year"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"  # with the shapes of arrays
suppress_warnings = [
    "ref.python",  # a field that two classes share is linked to one of them
    "myst-nb.lexer",  # of pages that are not executed
]
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "criticality"
html_static_path = ["_static", str(Path(plotly.__file__).parent / "package_data" / "plotly.min.js")]
html_css_files = ["site.css"]
html_copy_source = False
smartquotes = False  # options of the command line keep their two hyphens
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5a8a", "color-brand-content": "#0b5a8a"},
    "dark_css_variables": {"color-brand-primary": "#7cc4f0", "color-brand-content": "#7cc4f0"},
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
copybutton_prompt_text = r"^\$ "
copybutton_prompt_is_regexp = True
