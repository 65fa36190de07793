"""The configuration of Sphinx."""

import sys
from importlib.metadata import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from jupyter_session_store import __version__

project = "jupyter_session_store"
author = "The jupyter_session_store developers"
project_copyright = "2026, " + author
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "generated_reference",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

napoleon_google_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
copybutton_exclude = ".linenos, .gp, .go"

# A name that leads nowhere is a warning, and so an error. What is not documented here is others':
# no network is asked for their inventories.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|datetime|gc|logging|tornado|traitlets|jupyter_server|t)\..*"),
    (
        r"py:class",
        r"(bool|callable|collection|datetime|dict|float|int|list|mapping|optional|sequence|str)",
    ),
    (r"py:(class|exc)", r"MappingKernelManager|NoSuchKernel"),
    # Prose before a colon, which napoleon takes for a type.
    (r"py:class", r".* .*"),
]

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_title = f"{project} {version}"
# pyproject.toml has the address.
_urls = dict(line.split(", ", 1) for line in metadata(project).get_all("Project-URL", []))
html_theme_options = {
    "github_url": _urls["Repository"],
    "header_links_before_dropdown": 4,
    "logo": {"text": project},
    "navbar_end": ["project-version", "theme-switcher", "navbar-icon-links"],
    "navigation_with_keys": False,
    "show_toc_level": 2,
}
html_css_files = ["narrow.css"]
templates_path = ["_templates"]
html_show_sourcelink = False
