"""A page of the documentation as a program: its blocks in order, in a fresh interpreter and a fresh directory.

Python blocks share one process, and blocks in `sh` are run by it in between. A block `text` with the title "Output"
says what the block before it prints: words as they stand, while figures and the names of jobs may be others.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrpilot.wire.text.job_names import ANIMALS, QUALITIES

from tests.support.repository import doc_pages

OUTPUT = "Output"
LONGEST_S = 580
"""The longest that a page may take, on a machine that is busy."""
_LANGUAGES = ("python", "sh")
_NEXT = "\x1e"
"""What stands between what two blocks print."""
_BAR = re.compile(r"[^\n]*\r|^ *\d+% [^\n]*?(?=lrpilot: )", re.MULTILINE)
"""A bar that was drawn over, or behind which a warning stands."""
_FIGURE = re.compile(r"(?<![\w.])[-+]?\d[\d,.:]*(?:e[-+]?\d+)?(?<![,.:])")
_NAME = re.compile(rf"\b(?:{'|'.join(QUALITIES)})-(?:{'|'.join(ANIMALS)})-\d+\b")
"""The name that a job has which was given none."""
_JOB = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8}\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def run(page: Path, directory: Path, environment: Mapping[str, str], replaced: Mapping[str, str]) -> list[str]:
    """Runs a page. What is said to be printed, and is not, is told by `differences`.

    Args:
        page: what is run.
        directory: where.
        environment: variables that are added to this process's.
        replaced: texts of the blocks that are another here, such as a port.

    Returns:
        What each block printed, on standard output and standard error.
    """
    runnable = [block for block in doc_pages.fenced(page) if block.language in _LANGUAGES and not block.not_run]
    blocks = [[block.language, _with(block.code, replaced)] for block in runnable]
    (directory / "blocks.json").write_text(json.dumps(blocks), "utf-8")
    printed = directory / "printed.txt"
    with printed.open("wb") as stream:  # not a pipe, which a server in the background would hold open
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "tests.support.repository.page_program", str(page)],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(LONGEST_S)
        finally:
            _end(process)
    text = printed.read_bytes().decode()  # as it is: the returns to a line's beginning, too
    assert code == 0, text
    return text.split(_NEXT)[:-1]


def _with(code: str, replaced: Mapping[str, str]) -> str:
    for old, new in replaced.items():
        code = code.replace(old, new)
    return code


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what a page has left in the background, too."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    process.wait(20)


def differences(page: Path, printed: list[str]) -> list[tuple[str, str]]:
    """The pairs of what a page says is printed and what was printed, where these are not alike."""
    blocks = [block for block in doc_pages.fenced(page) if not block.not_run]
    found, at = [], -1
    for block in blocks:
        if block.language in _LANGUAGES:
            at += 1
        elif block.title == OUTPUT and plain(block.text) != plain(printed[at]):
            found.append((plain(block.text), plain(printed[at])))
    return found


def plain(text: str) -> str:
    """A text without bars that were drawn over, figures and names of jobs."""
    lines = _FIGURE.sub("#", _NAME.sub("NAME", _JOB.sub("JOB", _BAR.sub("", text)))).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines if line.strip())


def main(page: str) -> None:
    """Runs the blocks of `blocks.json`, as `run` has written them."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for language, code in json.loads(Path("blocks.json").read_text("utf-8")):
        if language == "sh":
            subprocess.run(["bash", "-euc", code], check=True)
        else:
            exec(compile(code, page, "exec"), namespace)
        print(end=_NEXT, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
