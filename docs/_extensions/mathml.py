"""Formulas as MathML: browsers draw it themselves, so that a page needs no script, no font and no other host."""

from __future__ import annotations

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

# The closing bar of a norm has the index. Browsers stretch it by default, and it would then vanish.
BAR, STIFF_BAR = "<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>'

logger = logging.getLogger(__name__)


def _mathml(node: nodes.math | nodes.math_block, display: str) -> str:
    # Inline formulas of Markdown stand in $`...`$, where neither a repository's page nor this one changes their text.
    latex = " ".join(node.astext().strip().removeprefix("`").removesuffix("`").split())
    try:
        return convert(latex, display=display).replace(BAR, STIFF_BAR)
    except Exception as error:  # the converter has no common class of error
        logger.warning("formula %r cannot be drawn: %r", latex, error, location=node)
        return f"<code>{nodes.unescape(latex)}</code>"


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(_mathml(node, "inline"))
    raise nodes.SkipNode


def visit_display(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own line, which scrolls by itself where the page is narrow."""
    self.body.append(f'<div class="formula">{_mathml(node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
