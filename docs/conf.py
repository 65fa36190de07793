"""The configuration of Sphinx."""

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

from jupyter_session_store import PersistentSessionManager, __version__, errors
from jupyter_session_store.sql.models import Base
from jupyter_session_store.traits import StoreSettings

project = "jupyter_session_store"
author = "The jupyter_session_store developers"
project_copyright = "2026, " + author
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

napoleon_google_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_title = project
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}
html_show_sourcelink = False


def warn_of_what_is_missing(app: Sphinx) -> None:
    """Compare the reference with the code: a warning is an error."""
    traits = {**StoreSettings.class_own_traits(), **PersistentSessionManager.class_own_traits()}
    columns = [column for table in Base.metadata.tables.values() for column in table.columns]
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    expected = {
        "settings": [f".{name}`" for name, trait in traits.items() if trait.metadata.get("config")],
        "tables": [f"`{column.name}`" for column in columns],
        "errors": [f"`{kind.__name__}`" for kind in kinds if issubclass(kind, Exception)],
    }
    for page, names in expected.items():
        path = Path(app.srcdir) / "reference" / f"{page}.md"
        text = path.read_text(encoding="utf-8")
        for name in names:
            if name not in text:
                logging.getLogger(__name__).warning("%s does not name %s.", path, name)


def setup(app: Sphinx) -> None:
    """Register the comparison."""
    app.connect("builder-inited", warn_of_what_is_missing)
