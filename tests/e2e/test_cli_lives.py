"""Commands that look for jobs by their life, and change or delete them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lrpilot.v1 import tuner_pb2 as pb

from tests.support.jobs.simulated_training import SimulatedTraining
from tests.support.servers import wire_client
from tests.support.servers.command_line import assert_fails, lrpilot_command, quick_config
from tests.support.servers.server_process import running


def test_what_ended_long_ago_is_pruned_and_no_more(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/jobs.db"
    with running(database) as server:
        ended, _ = wire_client.drive(server.stub, quick_config("ended"), SimulatedTraining())
        left, silent = (wire_client.create(server.stub, quick_config(name)).job.id for name in ("left", "silent"))
        server.stub.LeaveJob(pb.LeaveJobRequest(job_id=left), timeout=10)
        live = wire_client.create(server.stub, quick_config("live")).job.id

        def prune(days: float, project: str, *options: str) -> str:
            command = ("jobs", "prune", "--older-than", days, "--project", project, "--db", database, *options)
            result = lrpilot_command(*command)
            assert result.returncode == 0, result.stderr
            return result.stdout

        def listed() -> list[str]:
            shown = lrpilot_command("jobs", "--json", "--server", server.target)
            return [job["id"] for job in json.loads(shown.stdout)]

        assert prune(1, "default") == "0 jobs deleted\n"
        assert lrpilot_command("projects", "create", "another", "--db", database).returncode == 0
        assert prune(0, "another") == "0 jobs deleted\n"
        assert listed() == [live, silent, left, ended]
        assert prune(0, "default", "--dry-run") == "2 jobs would be deleted (1 finished, 1 stopped)\n"
        assert prune(0, "default").startswith("2 jobs deleted (1 finished, 1 stopped); ")
        age(tmp_path / "jobs.db", silent, 400)
        assert prune(0, "default") == "0 jobs deleted\n"
        assert prune(0, "default", "--silent", "--dry-run") == "1 job would be deleted (1 silent)\n"
        settings = tmp_path / "lrpilot.toml"
        settings.write_text("silent_after_s = 100\nabandoned_after_s = 300\n")
        assert prune(0, "default", "--config", str(settings), "--dry-run") == "1 job would be deleted (1 abandoned)\n"
        age(tmp_path / "jobs.db", silent, 100_000)
        assert prune(2, "default", "--silent") == "0 jobs deleted\n"
        assert prune(1, "default").startswith("1 job deleted (1 abandoned); ")
        assert listed() == [live]


def test_of_several_jobs_of_a_name_the_one_is_meant_whose_client_is_there(sqlite_url: str) -> None:
    with running(sqlite_url) as server:
        jobs = [wire_client.create(server.stub, quick_config("twice")).job.id for _ in range(2)]

        def show() -> subprocess.CompletedProcess[str]:
            return lrpilot_command("show", "twice", "--json", "--server", server.target)

        words = [f"{job[:8]} (searching)" for job in reversed(jobs)]
        assert_fails(show(), 2, "job: 'twice' may be 2 jobs: ", *words, "give the beginning of an id")
        server.stub.LeaveJob(pb.LeaveJobRequest(job_id=jobs[1]), timeout=10)
        assert json.loads(show().stdout)["job"]["id"] == jobs[0]
        server.stub.LeaveJob(pb.LeaveJobRequest(job_id=jobs[0]), timeout=10)
        assert_fails(show(), 2, f"{jobs[0][:8]} (stopped)")


def test_jobs_are_listed_by_state_and_in_80_columns(sqlite_url: str, tmp_path: Path) -> None:
    with running(sqlite_url) as server:
        finished, _ = wire_client.drive(
            server.stub, quick_config("a name that is far too long for any line" * 3), SimulatedTraining()
        )
        silent, stopped, begun = (wire_client.create(server.stub, quick_config("")).job.id for _ in range(3))
        server.stub.LeaveJob(pb.LeaveJobRequest(job_id=stopped), timeout=10)
        age(tmp_path / "jobs.db", silent, 1000)

        def listed(states: str) -> list[str]:
            result = lrpilot_command("jobs", "--state", states, "--json", "--server", server.target)
            return [job["id"] for job in json.loads(result.stdout)]

        assert listed("silent") == [silent]
        assert listed("Finished, stopped") == [stopped, finished]
        assert listed("live") == [begun, stopped, silent]
        assert listed("alive") == [begun]
        assert listed("") == [begun, stopped, silent, finished]
        wrong = lrpilot_command("jobs", "--state", "gone", "--server", server.target)
        assert_fails(wrong, 2, "state: 'gone' is none of live, ended, warm-up")
        table = lrpilot_command("jobs", "--server", server.target, COLUMNS="80").stdout
        assert max(map(len, table.splitlines())) <= 80
        for job in (finished, silent, stopped, begun):
            assert job[:8] in table
        assert {"finished", "silent", "stopped"} <= set(table.split())
        assert "16 minutes ago" in table
        shown = lrpilot_command("show", silent, "--server", server.target).stdout
        assert "Its client is silent: the last sign came 16 minutes ago." in shown


def test_a_job_is_named_noted_and_deleted(sqlite_url: str) -> None:
    with running(sqlite_url) as server:
        job = wire_client.create(server.stub, quick_config("first")).job.id

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return lrpilot_command(*arguments, "--server", server.target)

        assert run("rename", "first", "second").stdout == f"{job} is renamed\n"
        assert run("note", "second", "the one with the [red]new[/red] tokenizer").stdout == f"{job} has the note\n"
        assert "the one with the [red]new[/red] tokenizer" in run("show", "second").stdout
        assert_fails(run("note", "second", "x" * 501), 2, "note")
        assert_fails(run("rename", "second", "x" * 201), 2, "name")
        assert_fails(run("rename", "second", "\x1b[31mred"), 2, "name")
        assert run("note", "second", "").stdout == f"{job} has no note any more\n"
        assert_fails(run("delete", "second"), 2, "yes: there is no terminal to ask on; give --yes")
        assert_fails(run("delete", "second", "--yes"), 2, "its client is there", "cancel the job first")
        assert run("delete", "second", "--yes", "--force").stdout == f"{job} deleted\n"
        assert run("jobs").stdout == "no jobs\n"


def age(database: Path, job_id: str, seconds: float) -> None:
    """Has a job's client be silent for so long."""
    time = datetime.now(UTC) - timedelta(seconds=seconds)
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for column in ("sign_time", "update_time"):
            connection.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", (f"{time:%Y-%m-%d %H:%M:%S.%f}", job_id))
