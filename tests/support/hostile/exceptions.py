"""What a bug or a broken machine may raise in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from lrpilot.errors import LRPilotError

USUAL: list[Callable[[], Exception]] = [
    lambda: ValueError("no value"),
    lambda: MemoryError(),
    lambda: KeyError("key"),
    lambda: OSError(28, "No space left on device"),
    lambda: RuntimeError("cannot schedule new futures after interpreter shutdown"),
    lambda: RecursionError(),
    lambda: AttributeError("attribute"),
    lambda: grpc.RpcError("neither code nor details"),
]
EXCEPTIONS: list[Callable[[], Exception]] = [
    *USUAL,
    lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "x"),
    lambda: ZeroDivisionError(),
    lambda: OverflowError("int too large to convert to float"),
    lambda: StopIteration(),
    lambda: TimeoutError(),
    lambda: AssertionError(),
    lambda: LRPilotError("of our own"),
]
