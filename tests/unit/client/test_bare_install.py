"""What is missing from an installation is told with what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
{program}
"""


@pytest.mark.parametrize(
    ("missing", "program", "words"),
    [
        ("typer", "from tuner_server.cli import main; main()", "lrpilot: the command needs the server's part"),
        (
            "torch",
            "import lrpilot; lrpilot.Schedule; lrpilot.Tuner",
            "lrpilot.Tuner is for PyTorch, which is not installed",
        ),
        ("torch", "import lrpilot; lrpilot.check_rollback", "lrpilot.check_rollback is for PyTorch"),
    ],
)
def test_what_is_missing_is_told(missing: str, program: str, words: str) -> None:
    command = [sys.executable, "-c", WITHOUT.format(missing=missing, program=program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert words in done.stderr.splitlines()[-1]
    assert "pip install" in done.stderr.splitlines()[-1]


INTERRUPTED = """
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
from tuner_server.cli import main; main()
"""


def test_ctrl_c_while_the_command_line_is_imported_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
