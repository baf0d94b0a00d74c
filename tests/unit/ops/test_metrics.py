from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tuner_server.core.job.life import Life
from tuner_server.core.job.state import Status
from tuner_server.core.messages import Outcome
from tuner_server.ops.metrics import FleetMetrics, ServerMetrics, exposition
from tuner_server.ops.shared_values import SIZE, SharedValues, SumOverProcesses, new_memory
from tuner_server.service.pipeline_observer import PipelineTask
from tuner_server.storage import Backup

WORKER = """
import sys
from tuner_server.core.job.life import Life
from tuner_server.core.job.state import Status
from tuner_server.ops.metrics import ServerMetrics
from tuner_server.ops.shared_values import SharedValues, count_in
memory, slot, waiting = map(int, sys.argv[1:])
count_in(SharedValues(memory))
metrics = ServerMetrics(None)
metrics.rpc_ended("lrpilot.v1.TunerService/Advance", "OK", 0.002)
metrics.pipeline_stands(waiting, 0, 10)
metrics.database_answers(slot == 0)
metrics.jobs_counted({(Status.TRAINING, Life.ALIVE): waiting})
"""
OK = {"method": "lrpilot.v1.TunerService/Advance", "code": "OK"}


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(text: bytes, name: str, **labels: str) -> float:
    return samples(text)[name, tuple(sorted(labels.items()))]


def test_what_a_process_does_is_counted() -> None:
    registry = CollectorRegistry()
    FleetMetrics(registry, workers=lambda: 1, restarts=lambda: 4)
    metrics = ServerMetrics(registry)
    metrics.rpc_ended("lrpilot.v1.TunerService/Advance", "OK", 0.002)
    metrics.rpc_ended("lrpilot.v1.TunerService/WatchJob", "OK", None)
    metrics.answered(Outcome.UNREPEATABLE, searched=True)
    with metrics.working(PipelineTask.COMMIT, [None] * 3):
        pass
    metrics.jobs_counted({(Status.TRAINING, Life.ALIVE): 5, (Status.SEARCHING, Life.SILENT): 0})
    metrics.database_measured(4096)
    metrics.backup_noted(None)
    assert value(exposition(registry), "lrpilot_last_backup_timestamp_seconds") == 0
    metrics.backup_noted(Backup(datetime(2030, 1, 1, tzinfo=UTC), 2048))
    text = exposition(registry)
    assert value(text, "lrpilot_rpcs_total", **OK) == 1
    assert value(text, "lrpilot_rpc_seconds_bucket", method="lrpilot.v1.TunerService/Advance", le="0.0025") == 1
    assert not any(labels == (("method", "lrpilot.v1.TunerService/WatchJob"),) for _, labels in samples(text))
    assert value(text, "lrpilot_reports_total", search="yes", outcome="unrepeatable") == 1
    assert value(text, "lrpilot_group_reports_sum", part="commit") == 3
    assert value(text, "lrpilot_group_seconds_count", part="commit") == 1
    assert value(text, "lrpilot_jobs", status="training", life="alive") == 5
    assert value(text, "lrpilot_database_bytes") == 4096
    assert value(text, "lrpilot_last_backup_timestamp_seconds") == datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    assert value(text, "lrpilot_last_backup_bytes") == 2048
    assert value(text, "lrpilot_worker_restarts_total") == 4


def test_what_workers_count_is_summed_and_outlives_them() -> None:
    def work(slot: int, waiting: int) -> None:
        arguments = map(str, (memories[slot], slot, waiting))
        subprocess.run([sys.executable, "-c", WORKER, *arguments], check=True, pass_fds=[memories[slot]])

    memories = [new_memory(), new_memory()]
    running = {0, 1}
    registry = CollectorRegistry()
    registry.register(SumOverProcesses(list(map(SharedValues, memories)), lambda slot: slot in running))
    work(0, 1)
    work(1, 2)
    text = exposition(registry)
    assert value(text, "lrpilot_rpcs_total", **OK) == 2
    method = OK["method"]
    assert value(text, "lrpilot_rpc_seconds_bucket", method=method, le="0.001") == 0
    assert value(text, "lrpilot_rpc_seconds_bucket", method=method, le="0.0025") == 2
    assert value(text, "lrpilot_rpc_seconds_bucket", method=method, le="+Inf") == 2
    assert value(text, "lrpilot_rpc_seconds_count", method=method) == 2
    assert value(text, "lrpilot_rpc_seconds_sum", method=method) == pytest.approx(0.004)
    assert value(text, "lrpilot_waiting_reports", queue="reports") == 3
    assert value(text, "lrpilot_database_up") == 0  # not for all of them
    assert value(text, "lrpilot_jobs", status="training", life="alive") == 2  # as the one that looked last has it
    running.remove(1)
    text = exposition(registry)
    assert value(text, "lrpilot_rpcs_total", **OK) == 2
    assert value(text, "lrpilot_waiting_reports", queue="reports") == 1
    assert value(text, "lrpilot_database_up") == 1
    running.add(1)
    work(1, 7)  # in its place
    text = exposition(registry)
    assert value(text, "lrpilot_rpcs_total", **OK) == 3
    assert value(text, "lrpilot_waiting_reports", queue="reports") == 8
    for memory in memories:
        os.close(memory)


def test_memory_that_is_full_counts_on_in_the_process_alone() -> None:
    memory = new_memory()
    shared = SharedValues(memory)
    os.close(memory)
    places = [shared.place(f"{i:05}" + "x" * 1000) for i in range(SIZE // 1000)]
    assert places[0] is not None
    assert places[-1] is None
    assert shared.place("00000" + "x" * 1000) == places[0]


def test_metrics_of_another_application_get_no_files(tmp_path: Path) -> None:
    code = """
from prometheus_client import CollectorRegistry
from tuner_server.ops.metrics import ServerMetrics
ServerMetrics(CollectorRegistry()).database_answers(True)
"""
    for name, directory in (("PROMETHEUS_MULTIPROC_DIR", tmp_path), ("prometheus_multiproc_dir", tmp_path / "missing")):
        subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {name: str(directory)})
    assert not list(tmp_path.iterdir())
