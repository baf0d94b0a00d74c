"""Writes formulae as MathML, which browsers show without a script or a font from elsewhere.

A page has them in LaTeX, in the form that code hosts show too: `$...$` in a line, a block fenced as `math`.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
"""What the Markdown extension `arithmatex` makes of a formula."""


def on_page_content(content: str, page: Page, **_others: object) -> str:
    """Replaces a page's formulae."""
    return _FORMULA.sub(lambda found: _mathml(found, page), content)


def _mathml(found: re.Match[str], page: Page) -> str:
    """A formula. Raises: PluginError: it has a command that the converter doesn't know, and would show as it stands."""
    tag, latex = found[1], html.unescape(found[2])
    mathml = convert(latex, display="block" if tag == "div" else "inline")
    if "\\" in mathml:
        raise PluginError(f"{page.file.src_uri}: no MathML for {latex}")
    return f'<{tag} class="formula">{mathml}</{tag}>'
