"""The `lrpilot` command as its users run it: a process, its exit code, its output."""

from __future__ import annotations

import subprocess

from tests.support.jobs.simulated_training import QUICK, config
from tests.support.servers import fork_server
from tuner_server.core.config import JobConfig

OUTPUT_TIMEOUT_S = 60.0


def lrpilot_command(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs it, with no settings but the given ones."""
    command = [str(argument) for argument in arguments]
    process = fork_server.shared().run(*command, **{"COLUMNS": "160"} | variables)
    output, errors = process.communicate(OUTPUT_TIMEOUT_S)
    return subprocess.CompletedProcess(command, process.wait(), output, errors)


def assert_fails(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One line on standard error that holds the words, nothing on standard output."""
    assert result.returncode == code, result
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("lrpilot: ")
    for word in words:
        assert word in lines[0]


def quick_config(name: str, family: str = "") -> JobConfig:
    """A job of a few directives."""
    return config(200, **QUICK).model_copy(update={"name": name, "family": family})
