"""Texts that do something to whoever shows them, and how to see whether they did."""

from __future__ import annotations

import re

ORDERS = {
    "terminal title": "\x1b]0;pwned\x07",
    "colour and cursor": "\x1b[31m\x1b[2J\x1b[H",
    "C1": "a\x9b31mb\x90c\x85d",
    "line": "first\nlevel=error event=forged\r\n",
    "overwritten": "honest\rpwned\b\b",
    "paragraph": "a\u2028b\u2029c",
    "turned round": "gnp.\u202efdp\u2066x\u2069",
    "unseen": "a\u200bdm\u00adin\ufeff\U000e0041",
    "blank letters": "\u3164ad\u115fm\u034fin",
    "marks of scores and shorthand": "\U0001d173ad\U0001bca0m\U0001d17ain",
    "no character": "a\ufffeb\U0001ffffc",
    "NUL": "a\0b",
}
"""What no name may have."""
MARKUP = {
    "rich": "lr [/sweep] [bold red]x[/] [link=file:///etc/passwd]y[/link]",
    "emoji code": ":skull: :smile:",
    "HTML": "\"><script>alert('pwned')</script><img src=x onerror=alert(1)>",
    "inline JSON": "</script><!--<script>{{7*7}}{%x%}",
    "mathtext": r"$\frac{$ $x^2$ \unknown{ _^$$",
    "formula": "=cmd|' /C calc'!A0,\"x\";@SUM(1+1)",
    "logfmt": 'a="b" level=error event=forged {"json": true}',
    "path": "../../etc/passwd",
    "device": "CON.txt",
    "SQL": "'; DROP TABLE jobs; -- %_%",
    "format": "%s %n {0} ${HOME} `id` $(id)",
    "script": "日本語 العربية עברית ไทย 👩\u200d🚀 e\u0301\u0301",
    "long": "x" * 200,
}
"""What a name may have, and what means something to one reader or other."""
_OBEYED = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200b\u00ad\ufeff\ufffe\ud800-\udfff\U000e0041\U0001ffff]"
)


def check_plain(shown: str) -> None:
    """Raises: AssertionError: something is in what was shown that its reader obeys, line breaks left out."""
    found = _OBEYED.search(shown)
    assert found is None, f"U+{ord(found.group()):04X} in {shown[max(found.start() - 40, 0) : found.end() + 40]!r}"
