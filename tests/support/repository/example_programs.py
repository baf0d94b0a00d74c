"""The programs of `examples/`, run as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(name: str, server: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs an example against a server, in a directory of its own. Gives what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("LRPILOT_SERVER", server)
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out
