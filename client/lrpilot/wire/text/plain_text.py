"""Which characters a text from elsewhere may have, and what is put in place of the others. Pure.

Some characters are no signs but orders to whoever shows them: they end lines, move a terminal's cursor, turn the
direction of writing, or can't be seen or encoded at all. Nobody needs them in a name. Where texts meet a reader that
was not asked (old records, policies of others, a server that is not to be trusted), `plain` makes them harmless.
"""

from __future__ import annotations

import re

_BREAKS = "\\t\\n\\v\\f\\r\\x1c-\\x1e\\x85\\u2028\\u2029"
"""What ends a line, or is as wide as it likes."""
_ORDERS = (
    "\\x00-\\x1f\\x7f-\\x9f"  # the control characters of ASCII and Latin-1: terminals obey them
    "\\u2028\\u2029"  # the ends of lines and paragraphs that are no control characters
    "\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069"  # the direction of writing
    "\\xad\\u180e\\u200b\\u2060-\\u2065\\u206a-\\u206f\\ufeff\\ufff9-\\ufffb"
    "\\U0001bca0-\\U0001bca3\\U0001d173-\\U0001d17a\\U000e0000-\\U000e007f"  # can't be seen
    "\\u034f\\u115f\\u1160\\u17b4\\u17b5\\u3164\\uffa0"  # letters that are blanks, and can't be told from none
    "\\ud800-\\udfff\\ufdd0-\\ufdef"  # halves of characters, which can't be encoded, and no characters at all
    + "".join(f"\\U{plane:04x}fffe\\U{plane:04x}ffff" for plane in range(17))
)
_BREAK, _ORDER = re.compile(f"[{_BREAKS}]"), re.compile(f"[{_ORDERS}]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def refusal(name: str) -> str:
    """Why a text can't be a name, with the place of what is wrong; empty: it can."""
    if _harmless(name):
        return ""
    found = _ORDER.search(name)
    if found is None:
        return ""
    return f"character {found.start() + 1} is U+{ord(found.group()):04X}; give visible characters and blanks"


def plain(text: str) -> str:
    """The text in one line, as long as it was: a blank for what ends a line, U+FFFD for other orders."""
    return text if _harmless(text) else _ORDER.sub(REPLACEMENT, _BREAK.sub(" ", text))


def spelled_out(text: str) -> str:
    r"""The text with every order written as JSON escapes it, as `\u001b`: nothing is lost, and nothing is obeyed."""
    if _harmless(text):
        return text
    return _ORDER.sub(lambda found: "".join(f"\\u{unit:04x}" for unit in _units(found.group())), text)


def _harmless(text: str) -> bool:
    """Whether a text has ASCII's visible characters and blanks alone, as nearly every one: seen in no time."""
    return text.isascii() and text.isprintable()


def _units(character: str) -> list[int]:
    """The UTF-16 code units of a character, which may itself be half of one."""
    data = character.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[i : i + 2]) for i in range(0, len(data), 2)]
