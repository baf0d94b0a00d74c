"""The `lrpilot` command as its users run it: a process, its exit code, its output."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lrpilot
import pytest
from lrpilot.wire.schedule_data import Measured

from tests.support.jobs.simulated_training import SimulatedTraining
from tests.support.servers import fork_server, wire_client
from tests.support.servers.command_line import OUTPUT_TIMEOUT_S, assert_fails, lrpilot_command, quick_config
from tests.support.servers.server_process import ServerProcess, running
from tuner_server.storage.tables import VERSION_TABLE

LRPILOT = Path(sys.executable).with_name("lrpilot")
COMMANDS = [
    "serve",
    "dashboard",
    "jobs",
    "show",
    "export",
    "stretch",
    "plot",
    "forecast",
    "refine",
    "cancel",
    "note",
    "rename",
    "delete",
    "extend",
    "anneal",
    "replan",
    "demo",
    "config",
    "db upgrade",
    "db backup",
    "db restore",
    "db compact",
    "jobs prune",
]
HEADER_BYTES = 100
"""Of a SQLite file; to open it is enough to change them."""


@dataclass(frozen=True)
class World:
    """A server with two jobs: one that ran to its end, and one that has only begun."""

    server: ServerProcess
    database: Path
    finished: str
    begun: str

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Runs a command against the server."""
        return lrpilot_command(*arguments, "--server", self.server.target)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    database = tmp_path_factory.mktemp("cli") / "jobs.db"
    with running(f"sqlite:///{database}") as server:
        finished, _ = wire_client.drive(server.stub, quick_config("finished", "digits"), SimulatedTraining())
        begun = wire_client.create(server.stub, quick_config("begun", "letters")).job.id
        yield World(server, database, finished, begun)


def test_version_is_the_distribution_s() -> None:
    """By the command that is installed."""
    result = subprocess.run(
        [LRPILOT, "--version"], capture_output=True, text=True, timeout=OUTPUT_TIMEOUT_S, check=True
    )
    assert result.stdout.strip() == importlib.metadata.version("lrpilot")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = lrpilot_command(*command.split(), "--help")
    assert result.returncode == 0
    assert f"Example: lrpilot {command}" in result.stdout


def test_help_names_every_command() -> None:
    shown = lrpilot_command("--help").stdout
    for command in COMMANDS:
        assert command.split()[0] in shown


def test_completion_of_a_shell_can_be_installed() -> None:
    # Without a look at the processes above this one, among which there need be no shell.
    result = lrpilot_command("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert result.returncode == 0
    assert "complete -o default -F _lrpilot_completion lrpilot" in result.stdout


def test_completion_offers_the_commands() -> None:
    result = lrpilot_command(_LRPILOT_COMPLETE="complete_bash", COMP_WORDS="lrpilot ca", COMP_CWORD="1")
    assert result.stdout.split() == ["cancel"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("jobs --nope", "jobs: no such option: --nope (see `lrpilot jobs --help`)"),
        ("jobs --limitt 4", "jobs: no such option: --limitt (Possible options: --limit) (see `lrpilot jobs --help`)"),
        ("jobs --limit 0", "jobs: invalid value for '--limit': "),
        ("show", "show: missing argument 'JOB' (see `lrpilot show --help`)"),
        ("db backup --db x", "db backup: missing option '-o' / '--output' (see `lrpilot db backup --help`)"),
        ("shwo", "no such command 'shwo'. Did you mean 'show'? (see `lrpilot --help`)"),
        ("serve --grace-s soon", "serve: invalid value for '--grace-s': "),
        ("serve --listen nonsense", "listen: must be HOST:PORT, as 127.0.0.1:50051 (got 'nonsense') (flag --listen)"),
        ("demo --steps", "option '--steps' requires an argument (see `lrpilot --help`)"),
    ],
)
def test_what_the_command_line_does_not_know_is_one_line(arguments: str, line: str) -> None:
    assert_fails(lrpilot_command(*arguments.split()), 2, f"lrpilot: {line}")


@pytest.mark.parametrize("group", ["", "db"])
def test_without_a_command_there_is_help(group: str) -> None:
    result = lrpilot_command(*group.split())
    assert (result.returncode, result.stderr) == (2, "")
    assert f"Usage: lrpilot {group}".strip() in result.stdout


def test_jobs_lists_the_newest_first(world: World) -> None:
    table = world.run("jobs").stdout
    assert table.index("begun") < table.index("finished")
    jobs = json.loads(world.run("jobs", "--json").stdout)
    assert [job["id"] for job in jobs] == [world.begun, world.finished]
    assert jobs[1]["state"] == "JOB_STATE_FINISHED"


def test_jobs_can_be_narrowed_down(world: World) -> None:
    of_family = json.loads(world.run("jobs", "--json", "--family", "digits").stdout)
    assert [job["id"] for job in of_family] == [world.finished]
    newest = json.loads(world.run("jobs", "--json", "--limit", "1").stdout)
    assert [job["id"] for job in newest] == [world.begun]
    assert world.run("jobs", "--family", "unheard of").stdout == "no jobs\n"


def test_the_server_can_be_named_by_the_environment(world: World) -> None:
    result = lrpilot_command("jobs", "--json", LRPILOT_SERVER=world.server.target)
    assert len(json.loads(result.stdout)) == 2


def test_show_tells_how_far_a_job_is(world: World) -> None:
    shown = world.run("show", world.finished[:8]).stdout
    assert world.finished in shown
    assert "finished" in shown
    found = json.loads(world.run("show", world.finished[:8], "--json").stdout)
    steps = int(found["job"]["committedSteps"]) + int(found["job"]["searchSteps"])
    assert steps == 200
    assert sum(int(segment["nSteps"]) for segment in found["segments"]) == int(found["job"]["committedSteps"])
    assert f"{found['job']['committedSteps']} committed" in shown
    assert f"{found['job']['lastLoss']:.4g} (best {found['job']['bestLoss']:.4g})" in shown


def test_export_writes_a_schedule_that_can_be_replayed(world: World, tmp_path: Path) -> None:
    file = tmp_path / "schedule.json"
    assert world.run("export", world.finished, "-o", file).returncode == 0
    schedule = lrpilot.Schedule.load(file)
    assert schedule.job_id == world.finished
    assert len(schedule.losses) == schedule.n_steps
    assert schedule.n_steps + sum(len(probe.losses) for probe in schedule.probes) == 200


def test_refine_writes_a_schedule_that_can_be_replayed(world: World, tmp_path: Path) -> None:
    """The command refines a file, to which norms were added."""
    file, output, picture = tmp_path / "exported.json", tmp_path / "refined.json", tmp_path / "refined.png"
    world.run("export", world.finished, "-o", file)
    schedule = lrpilot.Schedule.load(file)
    measures = (Measured("gradient_norm", tuple(1.0 + step for step in range(schedule.n_steps))),)
    dataclasses.replace(schedule, measures=measures).save(file)
    result = world.run("refine", file, "-o", output, "--plot", picture, "--steps", 50, "--optimizer", "sgd")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{output} and {picture}: 50 steps, peak LR ")
    refined = lrpilot.Schedule.load(output)
    assert (refined.n_steps, refined.job_id) == (50, world.finished)
    assert max(refined.lrs()) == pytest.approx(max(schedule.lrs()))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_stretch_says_what_it_wrote_and_what_it_takes(world: World, tmp_path: Path) -> None:
    file, output = tmp_path / "exported.json", tmp_path / "longer.json"
    world.run("export", world.finished, "-o", file)
    n_steps = lrpilot.Schedule.load(file).n_steps
    written = lrpilot_command("stretch", file, "--steps", 900, "-o", output)
    assert written.stdout == f"{output}: {n_steps} steps stretched to 900\n"
    missing = lrpilot_command("stretch", "missing.json", "--steps", 900, "-o", output)
    assert_fails(missing, 2, "missing.json: No such file or directory; `lrpilot export")


@pytest.mark.parametrize("command", ["forecast", "refine"])
def test_what_is_neither_a_job_nor_a_file_is_called_so(world: World, command: str, tmp_path: Path) -> None:
    result = world.run(command, "missing.json", "-o", tmp_path / "written.json")
    assert_fails(result, 2, "there is no file missing.json", "lrpilot export")
    result = world.run(command, "missing", "-o", tmp_path / "written.json")
    assert_fails(result, 2, "no job has the name 'missing', or an id that begins so")


def test_a_job_without_norms_is_not_refined(world: World, tmp_path: Path) -> None:
    result = world.run("refine", world.finished[:8], "-o", tmp_path / "refined.json")
    assert_fails(result, 2, "no gradient_norm", "record=")
    assert not list(tmp_path.iterdir())


def test_plot_draws_a_picture(world: World, tmp_path: Path) -> None:
    file = tmp_path / "schedule.png"
    assert world.run("plot", world.finished, "-o", file).returncode == 0
    assert file.read_bytes().startswith(b"\x89PNG")


def test_forecast_tells_what_another_schedule_would_have_given(world: World) -> None:
    forecasts = json.loads(world.run("forecast", world.finished, "--from-start", "--json").stdout)["forecasts"]
    assert forecasts["asked"][0]["loss"] > 0
    assert_fails(world.run("forecast", world.begun), 2, "nothing can be forecast: no step is committed yet")


def test_a_picture_of_an_unknown_kind_is_bad_input(world: World, tmp_path: Path) -> None:
    assert_fails(world.run("plot", world.finished, "-o", tmp_path / "schedule.nope"), 2, "nope")


def test_a_file_that_cannot_be_written_is_one_line(world: World, tmp_path: Path) -> None:
    for command in ("export", "plot"):
        assert_fails(world.run(command, world.finished, "-o", tmp_path / "missing" / "x.png"), 2, "missing")


def test_cancel_ends_the_tuning(world: World) -> None:
    job = wire_client.create(world.server.stub, quick_config("doomed")).job.id
    found = json.loads(world.run("cancel", job, "--reason", "wrong data", "--json").stdout)
    assert (found["id"], found["state"]) == (job, "JOB_STATE_CANCELLED")
    assert "wrong data" in found["message"]
    assert "wrong data" in world.run("show", job).stdout


def test_a_plan_is_changed_in_one_line_that_says_when(world: World) -> None:
    job = wire_client.create(world.server.stub, quick_config("longer")).job.id
    when = "It takes effect with the job's next report on steps that stay."
    for _ in range(2):
        assert world.run("extend", job[:12], "--steps", 50).stdout == f"{job} will end 50 steps later. {when}\n"
    assert world.run("anneal", job, "--steps", 30).stdout == f"{job} will anneal over 30 steps. {when}\n"
    found = json.loads(world.run("replan", job, "--batch-factor", 2, "--reason", "more data", "--json").stdout)
    kinds = ["EXTEND", "EXTEND", "ANNEAL", "REPLAN"]
    assert [change["kind"] for change in found["requested"]] == [f"PLAN_CHANGE_KIND_{kind}" for kind in kinds]
    assert found["requested"][-1]["reason"] == "more data"
    shown = world.run("show", job).stdout
    assert "more data" in shown
    assert "a change waits" in shown
    assert "a change waits" in world.run("jobs").stdout


def test_a_plan_that_changed_is_shown(world: World) -> None:
    created = wire_client.create(world.server.stub, quick_config("longer still"))
    training, directive = SimulatedTraining(), wire_client.directive_from_pb(created.directive)
    world.run("extend", created.job.id, "--steps", 50, "--reason", "not there yet")
    while directive.change is None:
        directive = wire_client.advance(world.server.stub, created.job.id, training.run(directive))
    shown = world.run("show", created.job.id).stdout
    assert "the end moved to step 250 (somebody at the server asked for it: not there yet)" in shown
    assert "a change waits" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extend"], ["missing option", "--steps"]),
        (["extend", "--steps", "0"], ["invalid value", "--steps"]),
        (["extend", "--steps", str(2**40)], ["change.later_steps"]),
        (["anneal", "--steps", "many"], ["invalid value", "--steps"]),
        (["replan", "--batch-factor", "0"], ["change.batch_factor"]),
        (["replan", "--batch-scaling", "cube"], ["invalid value", "--batch-scaling"]),
        (["replan", "--reason", "x" * 501], ["change.reason"]),
    ],
)
def test_a_plan_that_can_not_be_is_bad_input(world: World, arguments: list[str], words: list[str]) -> None:
    command, *options = arguments
    assert_fails(world.run(command, world.begun, *options), 2, *words)


@pytest.mark.parametrize("command", ["extend", "anneal", "replan"])
def test_the_plan_of_a_job_that_has_ended_can_not_change(world: World, command: str) -> None:
    more = [] if command == "replan" else ["--steps", 5]
    assert_fails(world.run(command, world.finished, *more), 2, "has ended (finished)")


@pytest.mark.parametrize("command", ["show", "cancel", "export", "extend", "anneal", "replan"])
def test_a_job_that_is_not_there_is_bad_input(world: World, tmp_path: Path, command: str) -> None:
    more = ["-o", tmp_path / "x.json"] if command == "export" else []
    more = ["--steps", "5"] if command in ("extend", "anneal") else more
    assert_fails(world.run(command, "nobody", *more), 2, "nobody")


def test_a_server_that_is_not_there_is_a_failure() -> None:
    with socket.socket() as closed:  # bound, but not listening
        closed.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{closed.getsockname()[1]}"
        assert_fails(lrpilot_command("jobs", "--server", target), 1, target)


def test_a_port_in_use_is_bad_input(world: World, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/other.db"
    result = lrpilot_command("serve", "--listen", world.server.target, "--db", database)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"lrpilot: listen: {world.server.target}")


def test_without_a_server_the_own_database_is_read(world: World) -> None:
    result = lrpilot_command("jobs", "--json", LRPILOT_DB=f"sqlite:///{world.database}")
    assert result.returncode == 0, result.stderr
    assert world.finished in [job["id"] for job in json.loads(result.stdout)]


def test_a_database_is_made_where_the_environment_says(tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    result = lrpilot_command("db", "upgrade", LRPILOT_DB=f"sqlite:///{file}")
    assert result.returncode == 0, result.stderr
    assert f"{file}: from nothing to" in result.stdout
    assert file.exists()


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """The server of one's own refuses it, and what it says reaches the user."""
    file = tmp_path / "newer.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32))")
        connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES ('from_the_future')")
        connection.commit()
    before = file.read_bytes()
    assert_fails(lrpilot_command("jobs", LRPILOT_DB=f"sqlite:///{file}"), 1, "from_the_future", "newer")
    assert file.read_bytes()[HEADER_BYTES:] == before[HEADER_BYTES:]


def test_a_backup_holds_what_the_database_held_and_replaces_nothing(world: World, tmp_path: Path) -> None:
    copy, database = tmp_path / "copy.db", f"sqlite:///{world.database}"
    result = lrpilot_command("db", "backup", "-o", copy, "--db", database)
    assert result.returncode == 0, result.stderr
    with running(f"sqlite:///{copy}") as restored:
        listed = json.loads(lrpilot_command("jobs", "--json", "--server", restored.target).stdout)
    assert listed == json.loads(world.run("jobs", "--json").stdout)
    assert_fails(lrpilot_command("db", "backup", "-o", copy, "--db", database), 2, "output", str(copy))


def test_a_job_is_found_by_the_beginning_of_its_id(world: World) -> None:
    shown = json.loads(world.run("show", world.finished[:12], "--json").stdout)
    assert shown["job"]["id"] == world.finished
    assert_fails(world.run("show", ""), 2, "no job has the name ''")


def test_a_job_is_found_by_its_name_and_the_latest_by_that_word(world: World) -> None:
    def shown(job: str) -> str:
        found: str = json.loads(world.run("show", job, "--json").stdout)["job"]["id"]
        return found

    assert shown("finished") == world.finished
    assert shown("begun") == world.begun
    newest = json.loads(world.run("jobs", "--json", "--limit", "1").stdout)
    assert shown("latest") == newest[0]["id"]
    assert_fails(world.run("cancel", "fini"), 2, "no job has the name 'fini'")


def test_one_s_own_jobs_are_shown_in_a_browser_at_once(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path / 'jobs.db'}"
    process = fork_server.shared().run("dashboard", "--no-browser", "--port", "0", "--db", db)
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"your jobs are at (http://127\.0\.0\.1:\d+/); Ctrl-C ends it\n", line)
        assert found, line
        with urllib.request.urlopen(found[1], timeout=OUTPUT_TIMEOUT_S) as page:
            assert "LRPilot" in page.read().decode()
        process.send_signal(signal.SIGINT)
    finally:
        process.communicate(timeout=OUTPUT_TIMEOUT_S)
    assert process.returncode == 0
