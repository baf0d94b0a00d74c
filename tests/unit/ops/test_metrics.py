from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tuner_server.core.job.life import Life
from tuner_server.core.job.state import Status
from tuner_server.core.messages import Outcome
from tuner_server.ops.metrics import FleetMetrics, ServerMetrics, exposition, forget_gauges
from tuner_server.service.pipeline_observer import PipelineTask

WORKER = """
import sys
from pathlib import Path
from tuner_server.ops.metrics import ServerMetrics, share_with
directory, slot, waiting = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
share_with(directory, slot)
metrics = ServerMetrics(None)
metrics.rpc_ended("lrpilot.v1.TunerService/Advance", "OK", 0.002)
metrics.pipeline_stands(waiting, 0, 10)
metrics.database_answers(slot == 0)
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
    text = exposition(registry)
    assert value(text, "lrpilot_rpcs_total", **OK) == 1
    assert value(text, "lrpilot_rpc_seconds_bucket", method="lrpilot.v1.TunerService/Advance", le="0.0025") == 1
    assert not any(labels == (("method", "lrpilot.v1.TunerService/WatchJob"),) for _, labels in samples(text))
    assert value(text, "lrpilot_reports_total", search="yes", outcome="unrepeatable") == 1
    assert value(text, "lrpilot_group_reports_sum", part="commit") == 3
    assert value(text, "lrpilot_group_seconds_count", part="commit") == 1
    assert value(text, "lrpilot_jobs", status="training", life="alive") == 5
    assert value(text, "lrpilot_worker_restarts_total") == 4


def test_what_workers_count_is_summed_and_outlives_them(tmp_path: Path) -> None:
    def work(slot: int, waiting: int) -> None:
        subprocess.run([sys.executable, "-c", WORKER, str(tmp_path), str(slot), str(waiting)], check=True)

    work(0, 1)
    work(1, 2)
    text = exposition(CollectorRegistry(), tmp_path)
    assert value(text, "lrpilot_rpcs_total", **OK) == 2
    assert value(text, "lrpilot_waiting_reports", queue="reports") == 3
    assert value(text, "lrpilot_database_up") == 0  # not for all of them
    forget_gauges(tmp_path, 1)
    files = sorted(tmp_path.iterdir())
    text = exposition(CollectorRegistry(), tmp_path)
    assert value(text, "lrpilot_rpcs_total", **OK) == 2
    assert value(text, "lrpilot_waiting_reports", queue="reports") == 1
    assert value(text, "lrpilot_database_up") == 1
    work(1, 7)  # in its place
    text = exposition(CollectorRegistry(), tmp_path)
    assert value(text, "lrpilot_rpcs_total", **OK) == 3
    assert value(text, "lrpilot_waiting_reports", queue="reports") == 8
    assert len(list(tmp_path.iterdir())) > len(files)
