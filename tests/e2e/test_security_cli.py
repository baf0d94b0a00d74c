"""A server that asks for TLS and tokens, as an operator sets it up and a client meets it: all by the command line."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import lrpilot
import pytest
import torch
import trustme

from tests.support.servers.server_process import ServerProcess, running
from tuner_server.access.authenticator import FRESH_S
from tuner_server.cli import main


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


def command(*arguments: object, **variables: str) -> Result:
    """Runs `lrpilot` with no settings but the given ones; in this process, since each start takes seconds."""
    given = [name for name in os.environ if name.startswith("LRPILOT_")]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in given:
            patch.delenv(name)
        for name, value in ({"COLUMNS": "160"} | variables).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["lrpilot", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return Result(ended.value.code, out.getvalue(), err.getvalue())


class World:
    """A server with TLS that asks for tokens."""

    def __init__(self, server: ServerProcess, db: str, ca: Path, token: str) -> None:
        self.server, self.db, self.ca, self.token = server, db, ca, token
        self.variables = {"LRPILOT_SERVER": server.target, "LRPILOT_TLS_CA": str(ca), "LRPILOT_TOKEN": token}

    def admin(self, *arguments: object) -> Result:
        """A command on the database."""
        return command(*arguments, "--db", self.db)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("security-cli")
    db = f"sqlite:///{directory}/jobs.db"
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    ca, cert, key = directory / "ca.pem", directory / "cert.pem", directory / "key.pem"
    authority.cert_pem.write_to_path(ca)
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    assert command("projects", "create", "vision", "--max-alive-jobs", 5, "--db", db).returncode == 0
    created = command("tokens", "create", "--project", "vision", "--scope", "train", "--scope", "read", "--db", db)
    assert created.returncode == 0
    token = created.stdout.strip()
    assert token.startswith("lrp_")
    assert token not in created.stderr
    with running(db, "--auth", "tokens", "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        yield World(server, db, ca, token)


def test_a_run_with_its_token_from_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.variables.items():
        monkeypatch.setenv(name, value)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lrpilot.Tuner(model, optimizer, total_steps=60, lr_bounds=(1e-3, 1.0), strict=True) as tuner:
        for batch in tuner.batches([torch.ones(4, 2)] * 10):
            loss = model(batch).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            tuner.step(loss)
    listed = json.loads(command("jobs", "--json", **world.variables).stdout)
    assert [job["id"] for job in listed] == [tuner.job_id]


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"LRPILOT_TOKEN": ""}, 2, "a token is needed"),
        ({"LRPILOT_TOKEN": "lrp_nope"}, 2, "the token is not valid"),
        ({"LRPILOT_TLS_CA": ""}, 1, "can't be used"),
        ({"LRPILOT_SERVER": "tuner.example.com:50051", "LRPILOT_TLS_CA": ""}, 2, "unencrypted"),
        ({"LRPILOT_TOKEN_FILE": "/nope"}, 2, "LRPILOT_TOKEN_FILE"),
    ],
)
def test_wrong_credentials_are_one_line(world: World, changed: dict[str, str], code: int, words: str) -> None:
    result = command("jobs", **world.variables | changed)
    assert (result.returncode, result.stdout) == (code, "")
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("lrpilot: ")]
    assert words in line
    assert world.token not in result.stderr


def test_a_token_s_life(world: World) -> None:
    created = world.admin(
        "tokens", "create", "--project", "vision", "--scope", "read", "--expires-days", 1, "--name", "ci"
    )
    token = created.stdout.strip()
    token_id = token.split("_")[1]
    listed: list[dict[str, Any]] = json.loads(world.admin("tokens", "list", "--json").stdout)
    (ours,) = [each for each in listed if each["id"] == token_id]
    assert (ours["project"], ours["name"], ours["scopes"], ours["revoke_time"]) == ("vision", "ci", ["read"], None)
    assert ours["expire_time"] > ours["create_time"]
    assert command("jobs", **world.variables | {"LRPILOT_TOKEN": token}).returncode == 0
    assert world.admin("tokens", "revoke", token_id).returncode == 0
    time.sleep(FRESH_S)  # the time that is stated
    refused = command("jobs", **world.variables | {"LRPILOT_TOKEN": token})
    assert (refused.returncode, "was revoked" in refused.stderr) == (2, True)
    for shown in (world.admin("tokens", "list"), world.admin("tokens", "list", "--json")):
        assert token_id in shown.stdout
        assert token.split("_", 2)[2] not in shown.stdout


def test_a_project_s_limits(world: World) -> None:
    assert world.admin("projects", "create", "audio").returncode == 0
    changed = world.admin("projects", "update", "audio", "--max-calls-per-s", 2.5)
    assert changed.stdout == "audio: none jobs alive, 2.5 calls a second\n"
    world.admin("projects", "update", "audio", "--max-alive-jobs", 3)
    listed = {each["name"]: each for each in json.loads(world.admin("projects", "list", "--json").stdout)}
    assert (listed["audio"]["max_alive_jobs"], listed["audio"]["max_calls_per_s"]) == (3, 2.5)
    assert listed["vision"]["max_alive_jobs"] == 5
    assert "audio" in world.admin("projects", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["projects", "create", "Vision"], "'Vision' is no name of a project"),
        (["projects", "create", "vision"], "exists already"),
        (["projects", "create", "other", "--max-alive-jobs", "many"], "'many' is neither a whole number nor none"),
        (["projects", "create", "other", "--max-calls-per-s", "-1"], "a number above 0"),
        (["projects", "update", "nope"], "no project is called 'nope'"),
        (["tokens", "create", "--project", "nope", "--scope", "read"], "no project is called 'nope'"),
        (["tokens", "revoke", "nope"], "no token has the id 'nope'"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line(world: World, arguments: list[str], words: str) -> None:
    result = world.admin(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("lrpilot: ")
    assert words in line


def test_a_server_that_others_could_reach_is_refused(tmp_path: Path) -> None:
    result = command("serve", "--listen", "0.0.0.0:0", "--db", f"sqlite:///{tmp_path}/jobs.db")
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "--tls-cert" in line
    assert "--insecure" in line


def test_the_log_holds_no_token(world: World) -> None:
    # Comes last: it ends the server.
    world.server.signal(signal.SIGTERM)
    code, log = world.server.wait()
    assert code == 0
    assert "UNAUTHENTICATED" in log
    assert "lrp_" not in log
    assert world.token.split("_", 2)[2] not in log
