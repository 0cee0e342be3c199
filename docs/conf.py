"""How Sphinx builds the site from docs/ and the other pages of the project: `make docs`.

The pages are plain Markdown, which a code host shows as well. `_site/` has the parts that only the site needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_site"))

from django.conf import settings

import ratekeeper

settings.configure()  # Django REST framework reads them when it is imported

project = "ratekeeper"
author = "the ratekeeper authors"
release = version = ratekeeper.__version__
html_title = f"ratekeeper {release}"

# The source folder is the whole project, so that links between all of its pages are checked, and lead somewhere.
root_doc = "docs/index"
include_patterns = ["docs/**.md", "benchmarks/README.md", "*.md"]
exclude_patterns = [".*", "build", "src", "tests", "examples", "deploy", "benchmarks/results", "dist"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "site_markdown",
    "site_files",
    "site_docstrings",
]
source_suffix = {".md": "markdown"}
suppress_warnings = ["toc.empty_glob"]
nitpicky = True
toc_object_entries_show_parents = "hide"
default_role = "name"

myst_heading_anchors = 4
myst_fence_as_directive = ["include"]
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

html_theme = "furo"
html_static_path = ["_site/static"]
html_css_files = ["site.css"]
html_extra_path = ["_site/root"]
html_favicon = html_logo = None
html_copy_source = False
html_show_sphinx = html_show_copyright = False
html_last_updated_fmt = None
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
