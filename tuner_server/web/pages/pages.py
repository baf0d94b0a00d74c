"""Renders templates, and finds the files that pages need."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import jinja2
from lrpilot.wire.text.plain_text import plain
from markupsafe import Markup

STATIC = Path(__file__).parents[1] / "static"


def plotly_js() -> Path:
    """The path of Plotly's script in its Python package, which is not imported: that takes a while."""
    found = importlib.util.find_spec("plotly")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "package_data" / "plotly.min.js"


@functools.cache
def plotly_js_gzipped() -> bytes:
    """Plotly's script, compressed: a fifth of a second's work, once."""
    return gzip.compress(plotly_js().read_bytes(), compresslevel=6)


class Pages:
    """Renders templates."""

    def __init__(self, base_path: str = "") -> None:
        """Renders pages whose addresses begin with `base_path`; empty: with their own first slash."""
        self._base_path = base_path
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("tuner_server.web"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            finalize=_plain,
        )
        self._environment.globals |= {"static": self._static, "base": base_path}

    def render(self, name: str, **values: Any) -> str:
        """The text of a page. Values are escaped."""
        return self._environment.get_template(name).render(**values)

    def _static(self, name: str) -> str:
        """A file's address, which changes with the file: a browser may keep what it has forever."""
        return f"{self._base_path}/static/{name}?v={_digest(plotly_js() if name == 'plotly.min.js' else STATIC / name)}"


def _plain(value: Any) -> Any:
    """What a template shows of a value: a text in one line that turns nothing round; what is marked up stays so."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _digest(path: Path) -> str:
    """A text that differs when the file does."""
    stat = path.stat()
    return hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:12]
