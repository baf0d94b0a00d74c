"""A notebook's kernel: a real one, that cells are run in as a front end does."""

from __future__ import annotations

import dataclasses
import os
import queue
import time
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")  # before jupyter_core is imported, which warns without

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

START_S, CELL_S = 120.0, 120.0


@dataclasses.dataclass
class Output:
    """What a cell gave."""

    streams: str = ""
    """What was written, on either stream."""
    displays: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """The texts of each display that changes in its place, by its id."""
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The result by MIME type; empty: there is none."""
    error: str = ""
    """The error in a line, with its class; empty: there was none."""
    n_frames: int = 0

    @property
    def told(self) -> str:
        """The last text of each display."""
        return "\n".join(texts[-1] for texts in self.displays.values())


class Notebook:
    """A kernel with its cells."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Starts it, with these variables besides our own."""
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(env={**os.environ, **environment, "JUPYTER_PLATFORM_DIRS": "1"})
        self._client: BlockingKernelClient = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=START_S)

    def run(self, code: str, *, interrupt_at: str | None = None) -> Output:
        """Runs a cell to its end; it is interrupted once a display or stream shows the text `interrupt_at`."""
        cell = self._client.execute(code)
        output, due = Output(), time.monotonic() + CELL_S
        while time.monotonic() < due:
            try:
                message = self._client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != cell:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return output
            _take(output, message["msg_type"], message["content"])
            if interrupt_at is not None and interrupt_at in f"{output.streams}{output.told}":
                interrupt_at = None
                self._manager.interrupt_kernel()
        raise TimeoutError(f"the cell did not end: {code}")

    def restart(self) -> None:
        """Kills the kernel, and starts another one."""
        self._manager.restart_kernel(now=True)
        self._client.wait_for_ready(timeout=START_S)

    def close(self) -> None:
        """Ends the kernel."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()


def _take(output: Output, kind: str, content: Mapping[str, Any]) -> None:
    if kind == "stream":
        output.streams += content["text"]
    elif kind in ("display_data", "update_display_data"):
        name = content.get("transient", {}).get("display_id", "")
        output.displays.setdefault(name, []).append(content["data"].get("text/plain", ""))
    elif kind == "execute_result":
        output.result = content["data"]
    elif kind == "error":
        output.error = f"{content['ename']}: {content['evalue']}"
        output.n_frames = len(content["traceback"])
