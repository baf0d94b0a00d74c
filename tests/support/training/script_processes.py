"""Training scripts in processes of their own, which have imported PyTorch already.

What differs from `python -c` is that imports cost nothing, and that modules are not torn down at the end: threads are
waited for and exit functions called, as at any end of Python, and then the process is gone.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Mapping
from pathlib import Path

from tests.support.training import torch_processes


def finished(
    script: str, environment: Mapping[str, str], directory: Path, timeout_s: float = 100.0
) -> subprocess.CompletedProcess[str]:
    """Runs a script to its end, in a session of its own. Raises: TimeoutExpired."""
    streams = [directory / "stdout", directory / "stderr"]
    process = torch_processes.context().Process(target=_run, args=(script, dict(environment), *streams))
    process.start()
    assert process.pid is not None
    process.join(timeout_s)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        raise subprocess.TimeoutExpired("a script", timeout_s, *(stream.read_text() for stream in streams))
    output, errors = (stream.read_text() for stream in streams)
    return subprocess.CompletedProcess(["script"], process.exitcode, output, errors)


def _run(script: str, environment: dict[str, str], *streams: Path) -> None:
    """Becomes the script."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    files = [os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for stream in streams]
    for number, file in enumerate([null, *files]):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # what scripts have; here it would be that of this process
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    code = 0
    try:
        exec(compile(script, "<script>", "exec"), main.__dict__)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
