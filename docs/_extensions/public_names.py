"""References to where a public object is defined lead to the name under which users import it."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import stuffinstance

KINDS = {"class", "data", "exception", "function"}
FIELD_OF_A_NAMED_TUPLE = type(stuffinstance.Regions.ids)


def find_documented(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Resolve the full path of an annotation, and the bare ``StuffBank``, to the one page that has the name."""
    domain = env.domains.python_domain
    name = node.get("reftarget", "").split(".")[-1]
    known = [
        full
        for full, entry in domain.objects.items()
        if full.endswith(f".{name}") and entry.objtype in KINDS and not entry.aliased
    ]
    if node.get("refdomain") != "py" or len(known) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", known[0], node, contnode)


def skip_fields(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Skip fields of named tuples, which their class's docstring lists, and what only ``print`` uses."""
    return True if isinstance(obj, FIELD_OF_A_NAMED_TUPLE) or name.endswith("extra_repr") else None


def keep_first_line(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Put an empty comment before the text of properties and data: Napoleon reads what precedes a colon as a type."""
    if what in ("property", "data"):
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect all."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("missing-reference", find_documented)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-docstring", keep_first_line, priority=400)  # Napoleon's is 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
