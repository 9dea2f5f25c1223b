"""How the site is built: `make docs` writes docs/_build/html, with every warning an error."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx_gallery.sorting import FileNameSortKey

import stuffinstance

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "stuffinstance"
author = "The stuffinstance maintainers"
version = release = stuffinstance.__version__

extensions = [
    "mathml",
    "myst_parser",
    "public_names",
    "repository_pages",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "tutorials/*.py", "tutorials/*.ipynb", "tutorials/*.py.md5", "tutorials/*.codeobj.json"]
suppress_warnings = ["config.cache"]  # the gallery's settings hold classes, which are not cached; nothing else is lost

# Files of the repository that are pages here too. Links to them, on any page, lead to the page.
repository_pages = {
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
    "benchmarks/README.md": "results/how_it_is_timed",
    "benchmarks/results/cpu.md": "results/cpu",
    "examples/gta5_to_cityscapes/README.md": "pipeline_code",
    "examples/train_sim.py": "train_sim",
    "tests/golden/README.md": "explanation/recorded_numbers",
}

# Markdown as the repository's pages are written: they are read there too.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
highlight_language = "text"  # of a block that names none

# Docstrings: public names as they are typed, `stuffinstance.StuffBank`.
nitpicky = True
nitpick_ignore_regex = [
    # Other projects' names: no inventory of theirs is fetched.
    (r"py:.*", r"(torch|numpy|np|nn|os|collections|typing|matplotlib)\..*|Tensor|Axes|NDArray|ProcessGroup"),
    (r"py:class", r"Sync|Between|Classifier|DistanceName"),  # aliases of types
    (r"py:.*", r"stuffinstance\..*\._\w+"),  # private
]
add_module_names = False
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False  # what a docstring gives before the colon is a shape, not a type
maximum_signature_line_length = 90
python_display_short_literal_types = True

# Tutorials: the files of examples/tutorials, run while the site is built.
sphinx_gallery_conf = {
    "examples_dirs": "../examples/tutorials",
    "gallery_dirs": "tutorials",
    "within_subsection_order": FileNameSortKey,
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "ignore_pattern": r"^(?!plot_)",  # what the tutorials share
    "image_scrapers": ("matplotlib",),
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "furo"
html_title = "stuffinstance"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#8c2d04", "color-brand-content": "#8c2d04"},
    "dark_css_variables": {"color-brand-primary": "#fdae6b", "color-brand-content": "#fdae6b"},
}
copybutton_exclude = ".linenos, .gp, .go"
