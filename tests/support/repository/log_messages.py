"""What the client writes into the log and on the screen, read off its source: templates with "…" for what varies."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.repository.doc_pages import ROOT

CLIENT = ROOT / "client" / "lrpilot"
ADAPTERS = "integrations"
"""The room whose messages are on the pages of the frameworks."""
_LOGGERS = ("log", "logger")
_TEXT_AT = {"warning": 0, "info": 0, "log": 1, "_complain": 0, "_say": 1}
"""By method: which argument is the message."""
_PLACE = re.compile(r"%[-+.\d]*[sdrgf]")


def logged() -> set[str]:
    """The messages of the logger `lrpilot`, adapters of frameworks left out, without the name before them."""
    files = (path for path in CLIENT.rglob("*.py") if ADAPTERS not in path.relative_to(CLIENT).parts)
    messages = {message for path in files for message in _messages(path)}
    return {message.removeprefix("lrpilot: ") for message in messages if not message.startswith("lrpilot: …")}


def _messages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        at = _TEXT_AT.get(node.func.attr)
        if at is None or len(node.args) <= at:
            continue
        own = node.func.attr.startswith("_")
        if own or (isinstance(node.func.value, ast.Name) and node.func.value.id in _LOGGERS):
            text = template(node.args[at])
            if " " in text:
                yield text


def template(node: ast.AST) -> str:
    """A text of the source, with "…" for each place of a value; empty: it is no text."""
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        return _PLACE.sub("…", "".join(map(str, parts)))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _PLACE.sub("…", node.value)
    return ""


def narrated() -> set[str]:
    """The words of the lines and of the bar that a run is told by, each as it stands between two values."""
    tree = ast.parse((CLIENT / "narration" / "narrator.py").read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    texts = [template(node) for function in functions for node in _said(function) if _is_text(node)]
    words = {part.strip(" ,;:()`\"'") for text in texts for part in text.split("…")}
    return {word for word in words if re.search(r"[a-z]{2}", word)}


def _said(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node but what documents it: texts that stand alone."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield child
            yield from _said(child)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
