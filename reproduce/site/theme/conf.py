# Settings of Sphinx; copied beside the pages that reproduce/site/pages.py writes.
from typing import Any

import nsl

project = "Neural Similarity Learning"
author = "the authors of the reproduction"
release = nsl.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
]
html_theme = "furo"
html_title = "Neural Similarity Learning"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["extra"]
html_copy_source = False
html_show_sphinx = False
exclude_patterns = ["extra"]
default_role = "code"
# Notebooks are shown as they were executed; nothing runs here.
nb_execution_mode = "off"
nb_render_markdown_format = "gfm"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
add_module_names = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
suppress_warnings = [
    "myst.xref_missing",
    "myst.header",
    "autodoc",
    "docutils",
    "ref.python",
    "misc.highlighting_failure",
]


def as_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings of this project: indented blocks are code, and a bar means itself."""
    made: list[str] = []
    if what == "module" and obj.__doc__:
        # Sphinx takes off the indentation that all lines but the first share, which of a module is its examples'.
        lines[:] = obj.__doc__.expandtabs().strip("\n").splitlines()
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        if indented and number and not lines[number - 1].strip():
            before = next((text for text in reversed(lines[:number]) if text.strip()), "")
            if not before.startswith("    "):
                made += ["::", ""]
        made.append(line if indented else line.replace("|", "\\|"))
    lines[:] = made


def setup(app: Any) -> None:
    # Before napoleon, whose priority is 500.
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)
