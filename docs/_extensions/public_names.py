"""References to where a public object is defined lead to the name under which users import it."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import stuffinstance

FIELD_OF_A_NAMED_TUPLE = type(stuffinstance.Regions.map)


def find_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Resolve ``stuffinstance.banks.stuff.StuffBank`` (an annotation), ``.StuffBank`` and ``StuffBank`` alike."""
    name = node.get("reftarget", "").split(".")[-1]
    if node.get("refdomain") != "py" or name not in stuffinstance.__all__:
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", f"stuffinstance.{name}", node, contnode)


def skip_fields(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Leave out fields of named tuples, which their class's docstring lists with shapes."""
    return True if isinstance(obj, FIELD_OF_A_NAMED_TUPLE) else None


def keep_first_line(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Put an empty comment before a property's text: else Napoleon takes what precedes its first colon for a type."""
    if what == "property":
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect all."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("missing-reference", find_public_name)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-docstring", keep_first_line, priority=400)  # Napoleon's is 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
