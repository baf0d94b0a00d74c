"""A conversation that one rank has with its tuner, and all ranks hear."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lrpilot import errors
from lrpilot.session.run_state import RunState
from lrpilot.session.session import Session
from lrpilot.v1 import tuner_pb2 as pb

if TYPE_CHECKING:
    from lrpilot.distributed.ranks import Ranks

_ANSWER, _ERROR = b"a", b"e"
"""What a broadcast begins with."""
MEASURED = {"first_updates"}
"""What a rank measures of its own optimizer, which may hold another part of the weights: that of rank 0 counts."""


class SharedSession:
    """A `Session` for several ranks: the same calls, each of them made by all ranks at the same moment.

    Rank 0 has the session; what it gets, or raises, every rank gets, or raises.
    """

    def __init__(self, ranks: Ranks, config: pb.JobConfig, connect: Callable[[], Session]) -> None:
        """Talks to nobody yet; `connect` is called by rank 0 alone."""
        self._ranks = ranks
        self._process = os.getpid()
        self._connect = connect
        self._session: Session | None = None
        self.config = config
        """The job's, as the server completed it."""
        self.job_id = ""
        """The server's name of the job; empty until the server has it."""

    @property
    def forked(self) -> bool:
        """Whether this process is a child of the one that is a rank."""
        return os.getpid() != self._process

    @property
    def beat_due(self) -> float:
        """The time from which on the next step is a reason to `beat`; only on rank 0 it ever comes."""
        return math.inf if self._session is None else self._session.beat_due

    def beat(self, steps: int) -> None:
        """Says that the run goes on. Not collective; rank 0 says it."""
        if self._session is not None:
            self._session.beat(steps)

    def open(self, run_state: RunState) -> pb.Directive:
        """The first directive.

        Raises:
            ConfigError: the ranks were given different arguments.
            LRPilotError: as `Session.open` does, and whoever connects.
        """
        self._compare()

        def opened() -> pb.Directive:
            self._session = self._connect()
            return self._session.open(run_state)

        return self._heard(opened)

    def answer(self, directive: pb.Directive, report: pb.Report, run_state: RunState) -> pb.Directive:
        """What follows on the report of rank 0. Raises: ServerError: as `Session.answer` does."""
        return self._heard(lambda: self._own.answer(directive, report, run_state))

    def abandon(self, why: str, run_state: RunState) -> pb.Directive:
        """What follows when a rank can't go on; all ranks come here."""
        return self._heard(lambda: self._own.abandon(why, run_state))

    def decisions(self) -> list[pb.Decision]:
        """What the server decided so far. Not collective; only rank 0 knows."""
        return [] if self._session is None else self._session.decisions()

    def state_dict(self) -> dict[str, Any]:
        """The session as plain values. Not collective; every rank has its own."""
        return {
            "rank": self._ranks.rank,
            "size": self._ranks.size,
            "session": self._own.state_dict() if self._ranks.rank == 0 else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where other processes were.

        Raises:
            ConfigError: a rank was given the state of another one.
            ServerError: as `Session.load_state_dict` does.
        """
        own = {"rank": self._ranks.rank, "size": self._ranks.size}
        if any(self._ranks.any(own != {key: state.get(key) for key in own})):
            raise errors.ConfigError(
                f"state: every rank of {self._ranks.size} loads the state that it saved itself, of as many ranks; "
                f"rank {self._ranks.rank} was given that of rank {state.get('rank')} of {state.get('size')}"
            )

        def loaded() -> pb.Directive:
            self._own.load_state_dict(state["session"])
            return pb.Directive()

        self._heard(loaded)

    def close(self) -> None:
        """Lets go of the server, and of the other ranks. Not collective."""
        if self._session is not None:
            self._session.close()
        self._ranks.close()

    @property
    def _own(self) -> Session:
        assert self._session is not None
        return self._session

    def _compare(self) -> None:
        """Raises: ConfigError: not every rank would have opened the job that rank 0 opens."""
        first = pb.JobConfig.FromString(self._ranks.broadcast(self.config.SerializeToString()))
        names = [field.name for field in pb.JobConfig.DESCRIPTOR.fields if field.name not in MEASURED]
        differ = self._ranks.any(*(getattr(first, name) != getattr(self.config, name) for name in names))
        if any(differ):
            culprits = ", ".join(name for name, differs in zip(names, differ, strict=True) if differs)
            raise errors.ConfigError(f"{culprits}: not the same on every rank")

    def _heard(self, ask: Callable[[], pb.Directive]) -> pb.Directive:
        """What `ask` gives on rank 0. Raises: what it raises there."""
        if self._ranks.rank > 0:
            return self._take(self._ranks.broadcast())
        try:
            directive = ask()
        except Exception as error:
            self._ranks.broadcast(_ERROR + _error_to_json(error))
            raise
        job = pb.Job(id=self._own.job_id, config=self._own.config)
        message = pb.CreateJobResponse(job=job, directive=directive)
        return self._take(self._ranks.broadcast(_ANSWER + message.SerializeToString()))

    def _take(self, message: bytes) -> pb.Directive:
        kind, content = message[:1], message[1:]
        if kind == _ERROR:
            raise _error_from_json(content)
        response = pb.CreateJobResponse.FromString(content)
        self.job_id, self.config = response.job.id, response.job.config
        return response.directive


def _error_to_json(error: Exception) -> bytes:
    code = error.code if isinstance(error, errors.ServerError) else None
    return json.dumps({"kind": type(error).__name__, "message": str(error), "code": code}).encode()


def _error_from_json(content: bytes) -> errors.LRPilotError:
    """The error that was sent; one that is not of the family becomes its root."""
    error = json.loads(content)
    kind = getattr(errors, error["kind"], None)
    if kind is None:
        return errors.LRPilotError(f"rank 0: {error['kind']}: {error['message']}")
    arguments = (error["message"],) if error["code"] is None else (error["message"], error["code"])
    family_member: errors.LRPilotError = kind(*arguments)
    return family_member
