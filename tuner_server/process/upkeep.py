"""What the first process of a server does beside serving.

It hears SIGHUP, tells its service manager how it is, and looks at the ends of its certificates every day.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from tuner_server.ops.signals import on_hangup
from tuner_server.process.reloading import Reloading, SettingsSource, tls_files
from tuner_server.process.service_manager import ServiceManager
from tuner_server.process.settings import ServerSettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

DAY_S = 86_400.0


class Upkeep:
    """The upkeep of a server, on the running loop, for as long as `running` is open."""

    def __init__(
        self,
        settings: ServerSettings,
        source: SettingsSource,
        *,
        alive: Callable[[], bool] = lambda: True,
        reloaded: Callable[[ServerSettings], None] = lambda _settings: None,
    ) -> None:
        """Takes the environment's variables of a service manager.

        Args:
            settings: those that the server runs with.
            source: where they are read again.
            alive: whether the server need not be started anew; the service manager hears no more when it has to be.
            reloaded: is called with the settings of now, after SIGHUP.
        """
        self._manager = ServiceManager.of_environment(os.environ)
        self._reloading = Reloading(settings, source)
        self._alive, self._reloaded = alive, reloaded
        files = tls_files(settings)
        self._ends = None
        if files is not None:
            from tuner_server.ops.certificates import CertificateEnds

            self._ends = CertificateEnds(files)
        self._status = ""

    @contextlib.asynccontextmanager
    async def running(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """Keeps the server up until the block ends; `stopping` is set when it drains."""
        on_hangup(self._reload)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._say_when(stopping)), group.create_task(self._look_daily())]
            if self._manager.watchdog_s is not None:
                tasks.append(group.create_task(self._give_signs(self._manager.watchdog_s / 2)))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    def show_in(self, registry: CollectorRegistry) -> None:
        """Adds what is known of certificates to the metrics."""
        if self._ends is not None:
            registry.register(self._ends)

    def ready(self, where: str) -> None:
        """The server answers at the address `where`."""
        self._status = f"serving at {where}"
        self._manager.ready(self._status)

    def _reload(self) -> None:
        self._manager.reloading()
        self._reloaded(self._reloading.reload(tell=True))
        if self._ends is not None:
            self._ends.warn()
        self._manager.ready(self._status)

    async def _say_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._manager.stopping()

    async def _look_daily(self) -> None:
        while self._ends is not None:
            await asyncio.to_thread(self._ends.warn)
            await asyncio.sleep(DAY_S)

    async def _give_signs(self, interval_s: float) -> None:
        while True:
            if self._alive():
                self._manager.alive()
            await asyncio.sleep(interval_s)
