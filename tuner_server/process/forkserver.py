"""Forks workers off a process that has imported all that they need, in no time and with its memory shared.

Orders go through a pair of sockets that have no name: nothing depends on a file in the temporary folder, which the
system cleans and whose path may be too long for a socket. The process ends when its owner does.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from tuner_server.base.streams import STDERR, say
from tuner_server.ops.signals import ignore_hangup

ANSWER_S = 120.0
"""Seconds for a fork; the first one waits for the imports, from a disk that may be slow."""
_FORK = b"fork"
_MAX_MESSAGE = 1024
_MAX_DESCRIPTORS = 3
_EXIT_CODE = struct.Struct("i")
_IGNORED = (signal.SIGINT, signal.SIGTERM)
"""Signals that a terminal or a service manager sends to all processes of a server: workers drain, and then we end."""


class ForkServer:
    """The process as its owner sees it. It is started when it is needed, and again if it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._given_up = False

    def fork(self, descriptors: Sequence[int]) -> int:
        """Forks a worker.

        Args:
            descriptors: what it gets: its connection, where its exit code is written to, and perhaps the memory in
                which it counts.

        Returns:
            The process id.

        Raises:
            OSError: no process could be started.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._start()
            if self._given_up:  # looked at once there is a process that `give_up` would have found
                self._end()
                raise OSError("no process is started any more")
            assert self._socket is not None
            try:
                socket.send_fds(self._socket, [_FORK], descriptors)
                answer = self._socket.recv(_MAX_MESSAGE).decode()
            except OSError:
                self._end()
                raise
            if not answer:
                self._end()
                raise OSError("the process that forks workers has ended")
            if not answer.isdecimal():
                raise OSError(answer)
            return int(answer)

    def give_up(self) -> None:
        """Has a fork that another thread waits for fail, and all that would follow, as at the end of the server."""
        self._given_up = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process. Workers that still run are told by their connections, not by this."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            code = f"import sys; sys.path[:] = {sys.path!r}; "
            code += f"from tuner_server.process.forkserver import main; main({theirs.fileno()})"
            # A terminal that closes tells all processes. It is held back until the new one ignores it: what handles a
            # signal here would leave it the default there, which is the end.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
                )
            except OSError:
                ours.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))
        ours.settimeout(ANSWER_S)
        self._socket = ours

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def exit_code(status: int) -> int | None:
    """The exit code that was written to a worker's status pipe, whose other end this is; None: nobody wrote it."""
    data = os.read(status, _EXIT_CODE.size)
    return _EXIT_CODE.unpack(data)[0] if data else None


def main(orders: int) -> None:
    """Obeys the owner at the other end of a socket until that is gone."""
    ignore_hangup()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))

    from tuner_server.process.worker import work

    with contextlib.closing(socket.socket(fileno=orders)) as listening:
        _Forking(listening, work).run()
    os._exit(0)  # what was imported has nothing to clean up


class _Forking:
    """What the process does."""

    def __init__(self, orders: socket.socket, work: Callable[[Connection, int | None], None]) -> None:
        self._orders, self._work = orders, work
        self._status: dict[int, int] = {}
        """Where the exit codes of the children go, by process ids."""

    def run(self) -> None:
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._woken, self._waker = os.pipe()
        for descriptor in (self._woken, self._waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._orders, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._woken in ready:
                    self._reap()
                if self._orders.fileno() in ready and not self._obey():
                    return

    def _reap(self) -> None:
        """Tells the exit codes of the children that have ended."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._woken, _MAX_MESSAGE):
                pass
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                status = self._status.pop(ended[0])
                with contextlib.suppress(OSError):  # the owner is gone
                    os.write(status, _EXIT_CODE.pack(os.waitstatus_to_exitcode(ended[1])))
                os.close(status)

    def _obey(self) -> bool:
        """Carries out an order; False if there will be none any more."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._orders, _MAX_MESSAGE, _MAX_DESCRIPTORS)
        except OSError:
            return False
        if not message:
            return False
        connection, status, *memory = descriptors
        # Held back in a child until it no longer ignores them: a worker is told to end as soon as it is known.
        signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        try:
            child = os.fork()
        except OSError as error:
            answer, forked = str(error), False
        else:
            if child == 0:
                self._become_worker(connection, memory[0] if memory else None, status)
            answer, forked = str(child), True
            self._status[child] = status
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
        for descriptor in [connection, *memory, *([] if forked else [status])]:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            self._orders.send(answer.encode())
        return True

    def _become_worker(self, connection: int, memory: int | None, status: int) -> None:
        """Runs a worker in a child, and ends the process."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, *_IGNORED):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
            # A status pipe that others hold open would not tell the owner of our death.
            for descriptor in (self._woken, self._waker, status, self._orders.detach(), *self._status.values()):
                os.close(descriptor)
            self._work(Connection(connection), memory)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            say(STDERR, traceback.format_exc().encode(errors="replace"))
        finally:
            os._exit(code)
