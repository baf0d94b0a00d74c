"""Wires between clients and servers that lose, delay, repeat and cut, under the library's own transport."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, cast

import grpc
from google.protobuf.message import Message
from lrpilot.transport.grpc_transport import GrpcTransport

from tests.simulation.history import Call, History
from tests.simulation.server import SimulatedServer
from tests.simulation.world import World
from tuner_server.core.errors import TunerError
from tuner_server.rpc.status import code_of

TYPICAL_S, LATE_S = 0.002, 8.0
"""How long a message is under way: usually, and late ones at most, which is longer than a client waits."""


@dataclasses.dataclass(frozen=True, slots=True)
class NetworkFaults:
    """How likely each fault is, for a message."""

    lost: float = 0.0
    late: float = 0.0
    repeated: float = 0.0
    """The same request reaches a server once more, maybe another one, and maybe much later."""


class SimulatedRpcError(grpc.RpcError, grpc.Call):
    """What gRPC raises."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        return ()

    def initial_metadata(self) -> tuple[()]:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Any) -> bool:
        return False


_AWAY = SimulatedRpcError(grpc.StatusCode.UNAVAILABLE, "connection refused")
_LATE = SimulatedRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


class Network:
    """All wires."""

    def __init__(
        self, world: World, history: History, servers: Sequence[SimulatedServer], faults: NetworkFaults
    ) -> None:
        self.world, self.history, self.servers = world, history, servers
        self._faults = faults
        self._cut: dict[tuple[str, str], float] = {}
        self._open: dict[str, list[Call]] = {server.name: [] for server in servers}
        for server in servers:
            server.on_death = functools.partial(self._cut_off, server.name)

    def cut(self, client: str, server: str, seconds: float) -> None:
        """Lets nothing through between the two for so long."""
        self.world.fault("partition", client, server)
        self._cut[client, server] = self.world.time_s + seconds

    def call(self, client: str, method: str, request: Message, timeout: float) -> Any:
        """Asks one of the servers, as a client's stub does. Raises: grpc.RpcError."""
        world = self.world
        server = world.chance.choice(self.servers)
        call = self.history.begin(client, method, request)
        world.note(client, method, server.name, call.request.SerializeToString(deterministic=True).hex())
        told: list[Message | Exception] = []
        wake = world.current.waker() if world.current else None
        assert wake is not None, "only tasks ask"

        def arrive(answer: Message | Exception) -> None:
            if not told:
                told.append(answer)
                wake()

        self._send(call, server, timeout, arrive)
        if self._drawn(self._faults.repeated):
            again = self.history.begin(client, method, request)
            world.fault("repeated message", client, method)
            other = world.chance.choice(self.servers)
            delay = world.chance.choice((TYPICAL_S, world.chance.uniform(0, LATE_S)))
            world.at(delay, lambda: self._send(again, other, timeout, lambda _: None))
        world.at(timeout, lambda: arrive(_LATE))
        world.wait()
        told_first = told[0]
        if isinstance(told_first, Message):
            return told_first
        raise told_first

    def _send(self, call: Call, server: SimulatedServer, timeout: float, arrive: Any) -> None:
        """Puts a request on its way, and the answer on its way back."""
        world = self.world

        def back(answer: Message | Exception) -> None:
            answer = self._answered(call, answer)
            if self._passes(call, server, "answer"):
                world.at(self._delay(), lambda: arrive(answer))

        def there() -> None:
            if server.alive:
                self._open[server.name].append(call)
                server.handle(call.method, call.request, timeout, back)
                return
            self.history.never_arrives(call)
            if self._passes(call, server, "answer"):
                world.at(self._delay(), lambda: arrive(_AWAY))

        if self._passes(call, server, "request"):
            world.at(self._delay(), there)
        else:
            self.history.never_arrives(call)

    def _answered(self, call: Call, answer: Message | Exception) -> Message | SimulatedRpcError:
        """Writes down what a server answers to a call, and gives it as it is on the wire."""
        if isinstance(answer, Message):
            self.world.note(call.client, "answer", answer.SerializeToString(deterministic=True).hex())
            self.history.end(call, answer)
            return answer
        code = code_of(answer) if isinstance(answer, TunerError) else grpc.StatusCode.INTERNAL
        if code is grpc.StatusCode.INTERNAL:
            self.history.complain("no server fails by itself", f"{call}: {answer!r}")
        self.world.note(call.client, "refusal", code.name)
        self.history.end(call, None, code.name)
        return SimulatedRpcError(code, str(answer))

    def _cut_off(self, server: str) -> None:
        """A process is gone, and with it all that it worked on."""
        for call in self._open[server]:
            self.history.cut_off(call)
        self._open[server].clear()

    def _passes(self, call: Call, server: SimulatedServer, kind: str) -> bool:
        if self._cut.get((call.client, server.name), 0.0) > self.world.time_s:
            return False
        if self._drawn(self._faults.lost):
            self.world.fault(f"lost {kind}", call.client, call.method)
            return False
        return True

    def _delay(self) -> float:
        if self._drawn(self._faults.late):
            self.world.fault("late message")
            return self.world.chance.uniform(0, LATE_S)
        return self.world.chance.expovariate(1 / TYPICAL_S)

    def _drawn(self, likelihood: float) -> bool:
        return likelihood > 0 and self.world.chance.random() < likelihood


class SimulatedTransport(GrpcTransport):
    """The library's own transport, with its retries, over simulated wires."""

    def __init__(self, network: Network, client: str) -> None:
        self._network, self._client = network, client
        super().__init__("127.0.0.1:1")

    def _connect(self) -> None:
        self._channel = cast(Any, _Channel())
        self.stub = cast(Any, _Stub(self._network, self._client))


class _Channel:
    """A connection, which needs nothing."""

    def close(self) -> None:
        """Nothing is open."""


class _Stub:
    """The calls of a server by name."""

    def __init__(self, network: Network, client: str) -> None:
        self._network, self._client = network, client

    def __getattr__(self, method: str) -> Any:
        return functools.partial(self._network.call, self._client, method)
