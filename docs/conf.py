"""Sphinx's settings. The references are made by python_reference.py, lua_reference.py and c_reference.py; tools/docs builds the pages."""
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

project = "dsvk"
version = release = ".".join(re.findall(r"#define DSVK_VERSION_\w+ (\d+)", (HERE.parent / "core/dsvk.h").read_text(encoding="utf-8")))
copyright = "the dsvk authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "python_reference", "lua_reference", "c_reference"]
html_theme = "furo"
html_title = f"dsvk {version}"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False
smartquotes = False
default_role = "code"
myst_heading_anchors = 3
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 100
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "groupwise",
                           "inherited-members": "BaseException, OSError, dict, str, tuple"}
nitpicky = True     # a type of ours that has no entry is an error
nitpick_ignore_regex = [("py:.*", r"(?!dsvk\b).*|dsvk\.server\..*"), ("c:.*", r"(?!dsvk_).*")]
