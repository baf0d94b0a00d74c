"""Where a client's credentials come from, and where they do not go."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import lrpilot
import pytest
import torch
from lrpilot import ConfigError, Credentials
from lrpilot.errors import RefusedError, UnavailableError
from lrpilot.transport.grpc_transport import PUSHBACK_KEY, GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

SECRET = "lrp_0123456789ab_" + "s" * 43


def test_the_environment_s() -> None:
    assert Credentials.from_environment({}) == Credentials()
    assert Credentials.from_environment({"LRPILOT_TOKEN": "", "LRPILOT_TLS": "", "LRPILOT_TLS_CA": ""}) == Credentials()
    assert Credentials.from_environment({"LRPILOT_TOKEN": SECRET, "LRPILOT_CLIENT_INSECURE": "1"}) == Credentials(
        token=SECRET, insecure=True
    )
    files = {
        "LRPILOT_TLS_CA": "ca",
        "LRPILOT_CLIENT_CERT": "cert",
        "LRPILOT_CLIENT_KEY": "key",
        "LRPILOT_TOKEN_FILE": "t",
    }
    expected = Credentials(token_file="t", ca_file="ca", cert_file="cert", key_file="key")
    assert Credentials.from_environment(files) == expected
    assert expected.uses_tls
    assert Credentials.from_environment({"LRPILOT_TLS": "true"}).uses_tls
    assert not Credentials.from_environment({"LRPILOT_TLS": "0"}).uses_tls


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LRPILOT_TOKEN": SECRET, "LRPILOT_TOKEN_FILE": "f"}, "LRPILOT_TOKEN_FILE"),
        ({"LRPILOT_TOKEN": f"{SECRET}\n"}, "token"),
        ({"LRPILOT_TOKEN": f"{SECRET} é"}, "token"),
        ({"LRPILOT_CLIENT_CERT": "cert"}, "key_file"),
        ({"LRPILOT_TLS": "maybe"}, "LRPILOT_TLS"),
    ],
)
def test_what_makes_no_sense_is_refused_without_the_token(variables: Mapping[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Credentials.from_environment(variables)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "target", ["tuner:50051", "10.0.0.1:1", "dns:///localhost:1", "localhost.example.com:1", "::1"]
)
def test_a_token_does_not_leave_the_machine_unencrypted(target: str) -> None:
    with pytest.raises(ConfigError, match="unencrypted") as caught:
        GrpcTransport(target, Credentials(token=SECRET))
    assert SECRET not in str(caught.value)
    for credentials in (Credentials(token=SECRET, insecure=True), Credentials(token=SECRET, tls=True), Credentials()):
        GrpcTransport(target, credentials).close()


@pytest.mark.parametrize("target", ["localhost:1", "127.0.0.1:1", "[::1]:1", "127.1.2.3:1"])
def test_within_the_machine_it_may(target: str) -> None:
    GrpcTransport(target, Credentials(token=SECRET)).close()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nope"
    for credentials in (Credentials(ca_file=missing), Credentials(token_file=missing)):
        with pytest.raises(ConfigError, match=r"_file .*nope: No such file"):
            GrpcTransport("localhost:1", credentials)


def test_a_token_s_file_holds_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    assert Credentials(token_file=file).current_token() == SECRET
    file.write_text("\n")
    with pytest.raises(ConfigError, match="token_file"):
        Credentials(token_file=file).current_token()


# --- against a server that keeps what it was shown --------------------------------------------------------------------


class Listener(tuner_pb2_grpc.TunerServiceServicer):
    """Keeps the metadata of every call, and refuses as often as it is told."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str | bytes]] = []
        self.refusals = 0
        self.pushback: str | None = "1"
        self.called = threading.Event()

    def Advance(self, request: pb.AdvanceRequest, context: Any) -> pb.AdvanceResponse:
        self.seen.append(dict(context.invocation_metadata()))
        self.called.set()
        if self.refusals > 0:
            self.refusals -= 1
            if self.pushback is not None:
                context.set_trailing_metadata(((PUSHBACK_KEY, self.pushback),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
        return pb.AdvanceResponse(directive=pb.Directive(number=2, phase=pb.PHASE_STOP))

    def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> pb.CreateJobResponse:
        self.seen.append(dict(context.invocation_metadata()))
        directive = pb.Directive(
            number=1,
            phase=pb.PHASE_TRAIN,
            n_steps=2,
            snapshot=True,
            batches=pb.BATCH_SOURCE_FRESH,
            profile=pb.Profile(shape="constant", start_lr=0.1, end_lr=0.1, length=2),
        )
        return pb.CreateJobResponse(job=pb.Job(id="0" * 32, config=request.config), directive=directive)


@pytest.fixture
def listener() -> Iterator[tuple[Listener, str]]:
    servicer = Listener()  # type: ignore[abstract]  # calls of the other RPCs don't come
    with ThreadPoolExecutor(2) as executor:
        server = grpc.server(executor)
        tuner_pb2_grpc.add_TunerServiceServicer_to_server(servicer, server)
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield servicer, target
        server.stop(None).wait()


def test_every_call_shows_the_token_of_the_moment(listener: tuple[Listener, str], tmp_path: Path) -> None:
    servicer, target = listener
    file = tmp_path / "token"
    file.write_text("first")
    with contextlib.closing(GrpcTransport(target, Credentials(token_file=file))) as transport:
        transport.advance(pb.AdvanceRequest(), 10)
        file.write_text("second\n")
        transport.advance(pb.AdvanceRequest(), 10)
        file.unlink()  # in the middle of a renewal
        transport.advance(pb.AdvanceRequest(), 10)
    with contextlib.closing(GrpcTransport(target)) as transport:
        transport.advance(pb.AdvanceRequest(), 10)
    shown = [seen.get("authorization") for seen in servicer.seen]
    assert shown == ["Bearer first", "Bearer second", "Bearer second", None]


def test_a_token_for_this_machine_is_not_shown_to_a_proxy(
    listener: tuple[Listener, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, target = listener
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nobody is there
    with contextlib.closing(GrpcTransport(target, Credentials(token=SECRET))) as transport:
        transport.advance(pb.AdvanceRequest(), 5)
    assert len(servicer.seen) == 1


def test_a_server_with_too_much_to_do_is_asked_again(
    listener: tuple[Listener, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, target = listener
    pauses: list[float] = []
    monkeypatch.setattr("lrpilot.transport.grpc_transport.time.sleep", pauses.append)
    servicer.refusals, servicer.pushback = 3, "4000"
    with contextlib.closing(GrpcTransport(target)) as transport:
        transport.advance(pb.AdvanceRequest(), 60)
    assert len(servicer.seen) == 4
    assert all(4.0 <= pause <= 6.0 for pause in pauses)
    assert len(pauses) == 3


def test_one_that_wants_longer_than_there_is_time_counts_as_away(listener: tuple[Listener, str]) -> None:
    servicer, target = listener
    servicer.refusals, servicer.pushback = 1, "60000"
    with contextlib.closing(GrpcTransport(target)) as transport, pytest.raises(UnavailableError) as caught:
        transport.advance(pb.AdvanceRequest(), 30)
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert "later" in str(caught.value)
    assert len(servicer.seen) == 1


def test_a_quota_is_a_refusal(listener: tuple[Listener, str]) -> None:
    servicer, target = listener
    servicer.refusals, servicer.pushback = 1, None
    with contextlib.closing(GrpcTransport(target)) as transport, pytest.raises(RefusedError):
        transport.advance(pb.AdvanceRequest(), 30)
    assert len(servicer.seen) == 1


def run(target: str, **arguments: Any) -> lrpilot.Tuner:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return lrpilot.Tuner(model, optimizer, server=target, total_steps=100, **arguments)


def test_a_rate_limit_does_not_end_a_run_s_tuning(listener: tuple[Listener, str]) -> None:
    servicer, target = listener
    servicer.refusals = 2
    with run(target) as tuner:
        for _ in range(2):
            tuner.step(torch.tensor(1.0))
        assert servicer.refusals == 0
        assert tuner.job_id == "0" * 32


def test_a_tuner_s_token_is_shown_to_its_server_and_nowhere_else(
    listener: tuple[Listener, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    servicer, target = listener
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("LRPILOT_TOKEN", SECRET)
    with run(target) as tuner:
        torch.save(tuner.state_dict(), tmp_path / "state.pt")
        tuner.schedule.save(tmp_path / "schedule.json")
        shown = f"{tuner!r} {vars(tuner)!r}"
    assert servicer.seen[0]["authorization"] == f"Bearer {SECRET}"
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert json.loads((tmp_path / "schedule.json").read_text())
    assert SECRET[:20].encode() not in kept
    assert SECRET[:20] not in shown + caplog.text + "".join(capfd.readouterr())


def test_arguments_come_before_the_environment(listener: tuple[Listener, str], monkeypatch: pytest.MonkeyPatch) -> None:
    servicer, target = listener
    monkeypatch.setenv("LRPILOT_TOKEN", "of-the-environment")
    run(target, credentials=Credentials(token="of-the-argument")).close()
    assert servicer.seen[0]["authorization"] == "Bearer of-the-argument"


def test_credentials_hide_their_token() -> None:
    credentials = Credentials(token=SECRET)
    assert SECRET not in f"{credentials} {credentials!r}"


def test_errors_hide_the_token() -> None:
    transport = GrpcTransport("127.0.0.1:1", Credentials(token=SECRET))
    with contextlib.closing(transport), pytest.raises(UnavailableError) as caught:
        transport.advance(pb.AdvanceRequest(), 0.3)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"
