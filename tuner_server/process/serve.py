"""Runs one server process to its graceful end: on its own (`serve`), or as a worker of several (`run`)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc.aio
import structlog
from prometheus_client import CollectorRegistry
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has neither stubs nor py.typed

from tuner_server.access.authenticator import Authenticator
from tuner_server.access.shares import Shares
from tuner_server.access.tls import server_credentials
from tuner_server.base import descriptors
from tuner_server.base.address import Address, bound
from tuner_server.base.descriptors import ConnectionLimits
from tuner_server.base.streams import STDOUT, say
from tuner_server.core import policies
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.policies import plugins
from tuner_server.ops import logs
from tuner_server.ops.metrics import FleetMetrics, ServerMetrics, exposition
from tuner_server.ops.signals import stop_signals
from tuner_server.process.allocation import give_back_memory
from tuner_server.process.health_monitor import HealthMonitor
from tuner_server.process.reloading import SettingsSource, tls_files
from tuner_server.process.settings import ServerSettings
from tuner_server.process.sweeper import Sweeper
from tuner_server.process.upkeep import Upkeep
from tuner_server.process.worker_protocol import Health
from tuner_server.rpc.auth import Authentication
from tuner_server.rpc.limits import CallLimits
from tuner_server.rpc.revision import RevisionCheck
from tuner_server.rpc.server import ConnectionRules, Server
from tuner_server.rpc.telemetry import Telemetry, Tracer
from tuner_server.service.pipeline_observer import PipelineObserver
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import Database, open_storage
from tuner_server.storage.access import AccessStorage

if TYPE_CHECKING:
    from tuner_server.ops.tracing import Tracing

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter when another wants it: below the time of a suggestion."""
COLLECTED_AFTER = 5_000
"""After so many new objects the garbage collector looks for cycles among them; by default it looks after 700."""

log = structlog.get_logger(__name__)

_TOKEN_CONNECTIONS = 2
"""Connections to the database for looking up tokens, one for each thread of `access.authenticator`."""


def tell_address(where: str) -> None:
    """Prints one line, `listening on HOST:PORT`."""
    say(STDOUT, f"listening on {where}".encode())


def serve(source: SettingsSource, listens: Callable[[str], None] = tell_address) -> None:
    """Serves in this process, until SIGTERM or SIGINT, or the end of standard input if asked; then drains.

    Args:
        source: the settings.
        listens: is called once all ports answer, with HOST:PORT.

    Raises:
        InvalidInputError: an address can't be bound, or a file can't be used.
        StorageError: the database can't be used.
    """
    with logs.on_standard_error(source.first.log_format, source.first.log_level):
        asyncio.run(_serve_alone(source, listens))


async def _serve_alone(source: SettingsSource, listens: Callable[[str], None]) -> None:
    settings = source.first
    listen = Address.parse(settings.listen)
    health = Health("not asked yet")
    stopping = stop_signals(exits_with_stdin=settings.exit_with_stdin)

    def started(port: int) -> None:
        where = f"{listen._replace(port=port)}"
        listens(where)
        upkeep.ready(where)

    def checked(found: Health) -> None:
        nonlocal health
        health = found

    upkeep = Upkeep(settings, source, alive=lambda: not health.lasting)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(upkeep.running(stopping))
        metrics = None
        if settings.metrics is not None:
            registry = CollectorRegistry()
            FleetMetrics(registry, workers=lambda: 1, restarts=lambda: 0)
            metrics = ServerMetrics(registry)
            upkeep.show_in(registry)
            await stack.enter_async_context(_operators_port(settings.metrics, registry, lambda: health, stopping))
        await run(settings, listen, metrics, stopping, shares_port=False, started=started, checked=checked)


async def run(
    settings: ServerSettings,
    listen: Address,
    metrics: ServerMetrics | None,
    stopping: asyncio.Event,
    *,
    shares_port: bool,
    started: Callable[[int], None],
    checked: Callable[[Health], None],
) -> None:
    """Serves until `stopping` is set, and drains.

    Args:
        settings: those of the server.
        listen: where training jobs find it.
        metrics: what to count with, if somebody wants to know.
        stopping: an event of this loop.
        shares_port: whether other processes serve the port too.
        started: is called once the port answers, with its number.
        checked: is called every second with how it goes.

    Raises: as `serve`.
    """
    _tune_interpreter()
    for sentence in plugins.hidden(policies.POLICIES):
        log.warning("policy hidden", reason=sentence)
    connections = ConnectionLimits.of(descriptors.raised())
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(
            open_storage(settings.db, limits=settings.life_limits, pool_size=settings.db_pool_size)
        )
        observer: PipelineObserver = metrics or PipelineObserver()
        tracer: Tracer | None = None
        if settings.otlp_endpoint is not None:
            observer = tracer = stack.enter_context(_tracing(settings.otlp_endpoint, observer))
        service = stack.enter_context(TunerService(storage, observer=observer))
        stack.enter_context(Sweeper(storage))
        monitor = stack.enter_context(contextlib.closing(HealthMonitor(storage, service.pipeline, metrics)))
        authenticator = _authenticator(settings, stack)
        authentication = [] if authenticator is None else [Authentication(authenticator)]
        shares = Shares()
        server = Server(
            service,
            listen,
            credentials=_credentials(settings),
            interceptors=[Telemetry(metrics, tracer), *authentication, RevisionCheck(), CallLimits(shares)],
            shares_port=shares_port,
            connections=ConnectionRules(most=connections.rpc),
        )
        await server.start()
        if settings.http is not None:
            await stack.enter_async_context(
                _dashboard_port(
                    settings, service, authenticator, shares, stopping, connections.dashboard, shares_port=shares_port
                )
            )
        tell = _HealthReporter(server, checked)
        await tell(await monitor.check())
        started(server.port)
        log.info("serving", host=listen.host, port=server.port, auth=settings.auth, tls=settings.tls_cert is not None)
        await _monitored(server, monitor.run(tell), stopping, settings.grace_s)
    log.info("stopped")


async def _monitored(
    server: Server, monitor: Coroutine[None, None, None], stopping: asyncio.Event, grace_s: float
) -> None:
    """Lets a server answer until `stopping` is set, and drains it; whatever fails in the monitor ends it too."""
    monitoring = asyncio.create_task(monitor)
    waiting = asyncio.create_task(stopping.wait())
    ended, _ = await asyncio.wait({monitoring, waiting}, return_when=asyncio.FIRST_COMPLETED)
    log.info("draining", grace_s=grace_s)
    monitoring.cancel()
    await server.stop(grace_s)
    if monitoring in ended:
        monitoring.result()  # a bug of ours: raises


def _tune_interpreter() -> None:
    """Has threads, their turns and the memory of this process be as a server needs them."""
    give_back_memory()
    # The matrices of a search are small: threads would cost more than they give, and one gives the same bits always.
    threadpool_limits(1, "blas")
    # A search and the loop that answers take turns. NumPy lets go of the interpreter in every larger operation, of
    # which a search has dozens, and each time waits for as long as others may keep it: by default 5 ms.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What was imported stays. A full garbage collection that looks at its 150,000 objects takes a fifth of a second,
    # and every report waits for it.
    gc.freeze()
    # Values have no cycles: nearly all that a report leaves is freed without the collector.
    gc.set_threshold(COLLECTED_AFTER)


class _HealthReporter:
    """Passes on the health of the process: to those who ask for it, to the log when it changes, and to its owner."""

    def __init__(self, server: Server, checked: Callable[[Health], None]) -> None:
        self._server, self._checked = server, checked
        self._last = Health("")

    async def __call__(self, health: Health) -> None:
        await self._server.set_serving(not health.problem)
        self._checked(health)
        if health.problem and not self._last.problem:
            log.warning("database can't be used", why=health.why or health.problem)
        elif self._last.problem and not health.problem:
            log.info("database can be used again")
        self._last = health


def _authenticator(settings: ServerSettings, stack: AsyncExitStack) -> Authenticator | None:
    """What knows tokens, until `stack` ends; None: nobody is asked for one."""
    if settings.auth == "none":
        return None
    access = stack.enter_context(AccessStorage(Database(settings.db, pool_size=_TOKEN_CONNECTIONS)))
    return stack.enter_context(contextlib.closing(Authenticator(access)))


def _dashboard_port(
    settings: ServerSettings,
    service: TunerService,
    authenticator: Authenticator | None,
    shares: Shares,
    stopping: asyncio.Event,
    n_connections: int,
    *,
    shares_port: bool,
) -> contextlib.AbstractAsyncContextManager[None]:
    from tuner_server.ops.http import PortLimits  # a run's own server has no such port
    from tuner_server.web.server.front import Front
    from tuner_server.web.server.port import dashboard_port

    assert settings.http is not None
    return dashboard_port(
        service,
        Address.parse(settings.http),
        stopping,
        authenticate=None if authenticator is None else authenticator.authenticate,
        shares=shares,
        limits=PortLimits("http", n_connections),
        tls=tls_files(settings),
        shares_port=shares_port,
        front=Front(settings.base_path, settings.proxies),
    )


@contextlib.asynccontextmanager
async def _operators_port(
    address: str, registry: CollectorRegistry, health: Callable[[], Health], stopping: asyncio.Event
) -> AsyncIterator[None]:
    from tuner_server.ops.http import (  # a run's own server has no such port
        PortLimits,
        Readiness,
        operators_app,
        serving,
    )

    def readiness() -> Readiness:
        problem = health().problem
        ready = not problem and not stopping.is_set()
        return Readiness(ready, {"database": problem or "up", "workers": "stopping" if stopping.is_set() else "1 of 1"})

    def liveness() -> str:
        return health().problem if health().lasting else ""

    app = operators_app(liveness, readiness, lambda: exposition(registry))
    limits = PortLimits("metrics", ConnectionLimits.of(descriptors.raised()).operators)
    async with serving(app, bound("metrics", Address.parse(address)), limits):
        yield


@contextlib.contextmanager
def _tracing(endpoint: str, observer: PipelineObserver) -> Iterator[Tracing]:
    """Raises: InvalidInputError: OpenTelemetry is not installed."""
    try:
        from tuner_server.ops.tracing import Tracing, otlp_exporter
    except ModuleNotFoundError as error:
        raise InvalidInputError.of("otlp_endpoint", f"{error}: pip install 'lrpilot[otel]'") from error
    with contextlib.closing(Tracing(otlp_exporter(endpoint), observer)) as tracing:
        yield tracing


def _credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    files = tls_files(settings)
    return None if files is None else server_credentials(files)
