"""A server as its users run it: a process of its own."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

import grpc
from lrpilot.v1 import tuner_pb2_grpc

from tests.support.servers import fork_server
from tests.support.servers.fork_server import ForkedProcess

STOP_TIMEOUT_S = 30.0


def start(db: str, *arguments: str, listen: str = "127.0.0.1:0", **variables: str) -> ForkedProcess:
    """Starts a server on a database, with `variables` in its environment; whoever calls ends it."""
    return fork_server.shared().run("serve", "--listen", listen, "--db", db, *arguments, **variables)


class ServerProcess:
    """A server process, its address, and a stub connected to it."""

    def __init__(self, db: str, *arguments: str, **variables: str) -> None:
        self._db, self._arguments, self._variables = db, arguments, variables
        self.target = self._start()
        self.channel = grpc.insecure_channel(self.target)
        self.stub = tuner_pb2_grpc.TunerServiceStub(self.channel)

    def _start(self, listen: str = "127.0.0.1:0") -> str:
        """Starts the process; where it listens."""
        self.process = start(self._db, "--exit-with-stdin", *self._arguments, listen=listen, **self._variables)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the server did not start: {self.process.communicate()}")
        # A full pipe would block the server.
        self.log: list[str] = []
        """The lines of its log so far."""
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()
        return line.removeprefix("listening on ").strip()

    def kill(self) -> None:
        """SIGKILL; nothing listens any more when this returns."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()

    def restart(self) -> None:
        """Starts anew, after a `kill`: on the same database and port."""
        self._start(self.target)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """Waits for the end: exit code and log."""
        self.process.stdin.close()
        code = self.process.wait(timeout=STOP_TIMEOUT_S)
        self._reader.join()
        return code, "".join(self.log)

    def close(self) -> None:
        """Ends the server, if it still runs."""
        self.channel.close()
        self.kill()

    def _read_log(self) -> None:
        self.log.extend(self.process.stderr)


@contextlib.contextmanager
def running(db: str, *arguments: str, **variables: str) -> Iterator[ServerProcess]:
    """A server that ends with the block."""
    with contextlib.closing(ServerProcess(db, *arguments, **variables)) as server:
        yield server
