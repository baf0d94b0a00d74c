"""Writes the reference of the command line, from the commands themselves."""

from __future__ import annotations

import re
import subprocess
import sys

PLACE = "<!-- every command -->"


def on_page_markdown(markdown: str, **_others: object) -> str:
    """Puts the commands where a page wants them."""
    return markdown.replace(PLACE, _commands()) if PLACE in markdown else markdown


def _commands() -> str:
    """Typer's own documentation, less the listing at its beginning and before subcommands: the page has contents."""
    typer = [sys.executable, "-m", "typer", "tuner_server.cli.app", "utils", "docs", "--name", "lrpilot"]
    text = subprocess.run(typer, check=True, capture_output=True, text=True).stdout
    text = text[text.index("\n## ") :]
    return re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text)
