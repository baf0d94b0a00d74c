"""Writes the table of the server's settings, from the settings themselves."""

from __future__ import annotations

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from tuner_server.process.settings import ServerSettings

PLACE = "<!-- every setting -->"


def on_page_markdown(markdown: str, **_others: object) -> str:
    """Puts the table where a page wants it."""
    return markdown.replace(PLACE, _table()) if PLACE in markdown else markdown


def _table() -> str:
    rows = [f"| `{name}` | {_default(field)} | {_what(field)} |" for name, field in ServerSettings.model_fields.items()]
    return "\n".join(["| setting | default | what it is |", "| --- | --- | --- |", *rows])


def _default(field: FieldInfo) -> str:
    """A value; nothing where the description says what holds then."""
    return "" if field.default_factory or field.default is None else f"`{str(field.default).lower()}`"


def _what(field: FieldInfo) -> str:
    limits = [f"at least {limit.ge}" for limit in field.metadata if isinstance(limit, Ge)]
    limits += [f"at most {limit.le}" for limit in field.metadata if isinstance(limit, Le)]
    return f"{field.description} {', '.join(limits).capitalize()}{'.' if limits else ''}".strip()
