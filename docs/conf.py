"""Settings of Sphinx: MyST pages, docstrings by autodoc and napoleon. Warnings are errors (``make docs``)."""

import importlib
import pkgutil
import re
import sys
from pathlib import Path

# ``python -m sphinx`` puts the root of the repository on the path, where folders have other names than when installed.
ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]

import sharetorch  # noqa: E402

project = "ShareTorch"
author = "The ShareTorch authors"
copyright = "The ShareTorch authors, Apache-2.0"  # noqa: A001
release = version = sharetorch.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "benchmarks_network.md", "benchmarks_table.md"]
nb_execution_mode = "off"  # notebooks are committed as they were run; `make test` runs them again
html_theme = "furo"
html_title = f"ShareTorch {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # some names (Rectified, Extreme, relu) are used by two layers

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "__new__, __init__"}
python_maximum_signature_line_length = 100

# Docstrings are written to be read in the source: formulas stand in them as they are, modules list their parts in
# aligned columns, and keys such as [WGC19, Algorithm 3] name the literature. The functions below make
# reStructuredText of that.

_LITERAL = re.compile(r"(``.+?``|:[a-z:]+:`[^`]+`)")
_KEYS = re.compile(r"\[((?:[A-Z][A-Za-z0-9+-]*\d{2}|RFC\d{4})(?:[,;] [^\]]*)?)\]")
_KEY = re.compile(r"\b([A-Z][A-Za-z]*\d{2}|RFC\d{4})\b")
_COLUMNS = re.compile(r"^\S[^.]*?\S?\s{2,}\S")
_TREE = re.compile(r"[├└│]")
_FIELD = re.compile(r"^(Cost|Leaks|Units): ")


def _link_keys(text: str) -> str:
    """Keys of the literature become links to its page."""
    return _KEYS.sub(lambda m: f"[{_KEY.sub(lambda k: f':ref:`{k[1]} <ref-{k[1].lower()}>`', m[1])}]", text)


def _escape(line: str) -> str:
    """Formulas stay as they are: no substitutions, emphasis or references in them."""
    parts = _LITERAL.split(_link_keys(line))
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([|*\\])", r"\\\1", parts[i])
        parts[i] = re.sub(r"_(?=\W|$)", r"\\_", parts[i])
        if i and parts[i][:1].isalnum():
            parts[i] = "\\ " + parts[i]  # ``Slot``s
    return "".join(parts)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_block(line: str, base: int) -> bool:
    """Whether a line of a module's docstring is a formula, a column or a tree."""
    return bool(line.strip()) and (_indent(line) > base or bool(_COLUMNS.match(line)) or bool(_TREE.search(line)))


def _module_lines(lines: list[str]) -> list[str]:
    """Indented and aligned lines become literal blocks; the rest is escaped."""
    made: list[str] = []
    inside = in_list = False
    for line in lines:
        in_list = line.startswith(("* ", "- ")) or (in_list and line.startswith("  "))
        block = not in_list and _is_block(line, 0)
        if block and not inside:
            made += ["", "::", ""]
        elif inside and not block and line.strip():
            made.append("")
        inside = block or (inside and not line.strip())
        made.append("    " + line if block else ("* " + _escape(line[2:]) if line.startswith("* ") else _escape(line)))
    return made


def _function_lines(lines: list[str]) -> list[str]:
    """Cost and Leaks become fields; indented formulas after a colon become literal blocks; the rest is escaped."""
    made: list[str] = []
    field = False
    for line in lines:
        if _FIELD.match(line):
            if not field:
                made.append("")
            made.append(_FIELD.sub(lambda m: f":{m[1]}: ", _escape(line)))
            field = True
        elif field and line.strip() and not re.match(r"^[A-Z]\w+:$", line):
            made.append("    " + _escape(line))
        else:
            field = False
            made.append(_escape(line))
    return made


def convert_docstring(app, what, name, obj, options, lines):  # noqa: ANN001, ANN201
    """Turn a docstring into reStructuredText, before napoleon reads its sections."""
    lines[:] = _module_lines((obj.__doc__ or "").splitlines()) if what == "module" else _function_lines(lines)


def skip_member(app, what, name, obj, skip, options):  # noqa: ANN001, ANN201
    """Leave out what ``NamedTuple`` says about its fields; the class describes them."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


_MODULES = re.compile(r"^<!-- modules of ([\w.]+)(?: but (.*?))? -->$", re.MULTILINE)


def _module_sections(package: str, left_out: str | None) -> str:
    """A section for a package and for each of its public modules."""
    found = importlib.import_module(package)
    names = [module.name for module in pkgutil.iter_modules(found.__path__) if not module.ispkg]
    shown = [name for name in names if not name.startswith("_") and name not in (left_out or "").split(", ")]
    exported = "   :no-members:\n" if hasattr(found, "__all__") and package != "sharetorch.mpc.kernels" else ""
    sections = [f"## {package}\n\n```{{eval-rst}}\n.. automodule:: {package}\n{exported}```\n"]
    sections += [f"## {package}.{name}\n\n```{{eval-rst}}\n.. automodule:: {package}.{name}\n```\n" for name in shown]
    return "\n".join(sections)


def list_modules(app, docname, source):  # noqa: ANN001, ANN201
    """Fill in the pages of the reference, so that a new module is on them at once."""
    source[0] = _MODULES.sub(lambda m: _module_sections(m[1], m[2]), source[0])


def setup(app):  # noqa: ANN001, ANN201
    """Convert docstrings first."""
    app.connect("autodoc-process-docstring", convert_docstring, priority=400)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("source-read", list_modules)
