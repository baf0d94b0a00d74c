"""What a server counts, for Prometheus.

No label has values without bound: no job, no project, no message. Units are Prometheus' base units.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from tuner_server.core.job.life import Life
from tuner_server.core.job.state import Status
from tuner_server.core.messages import Outcome
from tuner_server.service.pipeline_observer import PipelineObserver, PipelineTask
from tuner_server.storage import Backup

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper ends of the classes of durations: from a cached answer to the time after which a client gives up waiting."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper ends of the classes of group sizes; the last one is a pipeline's largest group."""


# Not in the files of PROMETHEUS_MULTIPROC_DIR, if the environment has it: those are another application's.
values.ValueClass = values.MutexValue


class ServerMetrics(PipelineObserver):
    """The metrics of one process that serves. Thread-safe."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        """Registers all metrics. `registry` is None in a worker, whose supervisor reads them (see `shared_values`)."""
        self._rpcs = Counter("lrpilot_rpcs", "RPCs that ended.", ["method", "code"], registry=registry)
        self._rpc_seconds = Histogram(
            "lrpilot_rpc_seconds",
            "Duration of RPCs with one answer.",
            ["method"],
            buckets=SECONDS,
            registry=registry,
        )
        reports = Counter("lrpilot_reports", "Reports that were committed.", ["search", "outcome"], registry=registry)
        self._reports = {
            (searched, outcome): reports.labels("yes" if searched else "no", outcome.value)
            for searched in (True, False)
            for outcome in Outcome
        }
        self._repeated = Counter(
            "lrpilot_reports_repeated", "Reports that were taken before, and got the stored answer.", registry=registry
        )
        self._conflicts = Counter(
            "lrpilot_commit_conflicts",
            "Reports that were looked at again, because another process moved their job.",
            registry=registry,
        )
        seconds = Histogram(
            "lrpilot_group_seconds",
            "Duration of a part of the work on a group of reports.",
            ["part"],
            buckets=SECONDS,
            registry=registry,
        )
        sizes = Histogram(
            "lrpilot_group_reports",
            "Reports that a part of the work was done for together.",
            ["part"],
            buckets=SIZES,
            registry=registry,
        )
        self._groups = {task: (seconds.labels(task), sizes.labels(task)) for task in PipelineTask}
        self._waiting = Gauge(
            "lrpilot_waiting_reports", "Reports that wait.", ["queue"], multiprocess_mode="livesum", registry=registry
        )
        self._cached = Gauge(
            "lrpilot_cached_jobs",
            "Jobs whose state is kept in memory.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._jobs = Gauge(
            "lrpilot_jobs",
            "Jobs in the database that have not ended, by status and by the life of their clients.",
            ["status", "life"],
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self._database = Gauge(
            "lrpilot_database_up",
            "Whether the database answers and takes writes (of several workers: all of them).",
            multiprocess_mode="livemin",
            registry=registry,
        )

        def latest(name: str, words: str) -> Gauge:
            """What whichever worker looked last has found."""
            return Gauge(name, words, multiprocess_mode="livemostrecent", registry=registry)

        self._bytes = latest("lrpilot_database_bytes", "What the database takes on the disk.")
        self._backup_time = latest(
            "lrpilot_last_backup_timestamp_seconds",
            "When the database was backed up last, since the epoch; 0: it was not.",
        )
        self._backup_bytes = latest("lrpilot_last_backup_bytes", "The size of the last backup of the database.")

    def rpc_ended(self, method: str, code: str, seconds: float | None) -> None:
        """An RPC came to its end; `seconds` is None for a stream, which lasts as long as its client likes."""
        self._rpcs.labels(method, code).inc()
        if seconds is not None:
            self._rpc_seconds.labels(method).observe(seconds)

    def pipeline_stands(self, reports: int, searches: int, cached_jobs: int) -> None:
        """How many reports and searches wait now, and how many jobs are cached."""
        self._waiting.labels("reports").set(reports)
        self._waiting.labels("searches").set(searches)
        self._cached.set(cached_jobs)

    def database_answers(self, up: bool) -> None:
        """Whether the database could be used just now."""
        self._database.set(up)

    def jobs_counted(self, counts: Mapping[tuple[Status, Life], int]) -> None:
        """How many jobs that have not ended the whole database has, by status and life; zeros are told too."""
        for (status, life), count in counts.items():
            self._jobs.labels(status.value, life.value).set(count)

    def database_measured(self, size: int) -> None:
        """How many bytes the database takes on the disk."""
        self._bytes.set(size)

    def backup_noted(self, backup: Backup | None) -> None:
        """What the database says of its last backup; None: there was none."""
        self._backup_time.set(0 if backup is None else backup.time.timestamp())
        self._backup_bytes.set(0 if backup is None else backup.size)

    @contextlib.contextmanager
    def working(self, task: PipelineTask, origins: Sequence[object]) -> Iterator[None]:
        """See `PipelineObserver`. A task that fails counts too."""
        seconds, sizes = self._groups[task]
        sizes.observe(len(origins))
        with seconds.time():
            yield

    def answered(self, outcome: Outcome, *, searched: bool) -> None:
        """See `PipelineObserver`."""
        self._reports[searched, outcome].inc()

    def repeated(self) -> None:
        """See `PipelineObserver`."""
        self._repeated.inc()

    def conflicted(self) -> None:
        """See `PipelineObserver`."""
        self._conflicts.inc()


class FleetMetrics:
    """The metrics of a server as a whole, whether it is one process or several."""

    def __init__(self, registry: CollectorRegistry, workers: Callable[[], int], restarts: Callable[[], int]) -> None:
        """`workers` counts the processes that serve now, `restarts` those that had to be started again."""
        Gauge("lrpilot_workers", "Processes that serve.", registry=registry).set_function(workers)
        registry.register(_Count("lrpilot_worker_restarts", "Workers that took the place of one that ended.", restarts))
        build = Gauge("lrpilot_build_info", "Always 1.", ["version", "python"], registry=registry)
        build.labels(importlib.metadata.version("lrpilot"), platform.python_version()).set(1)
        start = Gauge("lrpilot_start_time_seconds", "When the server started, since the epoch.", registry=registry)
        start.set(time.time())


class _Count(Collector):
    """A counter that somebody else keeps."""

    def __init__(self, name: str, documentation: str, value: Callable[[], int]) -> None:
        self._name, self._documentation, self._value = name, documentation, value

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._documentation, value=self._value())


def exposition(registry: CollectorRegistry) -> bytes:
    """The text that Prometheus reads."""
    return generate_latest(registry)
