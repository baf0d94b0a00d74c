"""Bugs to be planted, each of a kind that such systems have had: a simulation that finds none of them is none."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any
from unittest import mock

from tests.simulation import episode
from tuner_server.service import pipeline, tuner_service
from tuner_server.storage import job_writes, sql


@dataclasses.dataclass(frozen=True, slots=True)
class Mutant:
    """A bug."""

    name: str
    owner: Any
    """The class or module that has it."""
    function: str
    right: str
    """The code as it is."""
    wrong: str
    """The code in its place."""

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Puts the bug in for a while."""
        original = inspect.getattr_static(self.owner, self.function)
        source = textwrap.dedent(inspect.getsource(original))
        assert self.right in source, f"{self.name}: {self.function} is written otherwise by now"
        module = inspect.getmodule(original)
        assert module is not None
        scope: dict[str, Any] = {}
        exec(compile(source.replace(self.right, self.wrong), self.name, "exec"), module.__dict__, scope)
        with mock.patch.object(self.owner, self.function, scope[self.function]):
            yield


MUTANTS = (
    Mutant(
        "a report is answered before it is on the disk",
        pipeline.ReportPipeline,
        "_write",
        "    changes = [",
        "    for pending, _, transition in ready:\n"
        "        pending.answer.done() or pending.answer.set_result(transition.directive)\n"
        "        pending.answer.set_result = pending.answer.set_exception = lambda _: None\n"
        "    changes = [",
    ),
    Mutant(
        "the version of a job is not looked at",
        job_writes,
        "write_state",
        "if connection.execute(WRITE_STATE, values).rowcount != 1:",
        "if connection.execute(sa.update(_JOBS).where(JobRow.id == values['of_job']).values("
        "{k: v for k, v in values.items() if k not in ('of_job', 'at_version')})).rowcount != 1:",
    ),
    Mutant(
        "a repeated report gets the directive that is outstanding",
        pipeline.ReportPipeline,
        "_decide_from",
        "return self._stored_answer(pending, state)",
        "return state.directive",
    ),
    Mutant(
        "a repeated report is not compared with the one that was taken",
        pipeline.ReportPipeline,
        "_stored_answer",
        "if answer.fingerprint != pending.fingerprint:",
        "if False:",
    ),
    Mutant(
        "a request that comes again opens another job",
        tuner_service.TunerService,
        "create_job",
        "self._storage.create(project, job_id, request_id,",
        "self._storage.create(project, job_id, uuid.uuid4().hex,",
    ),
    Mutant(
        "going back leaves the report on the directive that is given out again",
        sql.SqlStorage,
        "rewind",
        "connection.execute(reopen)",
        "pass",
    ),
    Mutant(
        "a refusal is founded on what is cached",
        pipeline.ReportPipeline,
        "_decide_one",
        "self._cache.forget(pending.job_id)",
        "raise",
    ),
    Mutant(
        "a report and its directive are written in two transactions",
        sql.SqlStorage,
        "record",
        "        if written:",
        "    with self._database.writing() as connection:\n        if written:",
    ),
    Mutant(
        "a former life is not told from the present one",
        pipeline.ReportPipeline,
        "_decide_from",
        "if pending.resume_id != state.resumed_as:",
        "if False:",
    ),
)
"""The bugs."""


def first_found(mutant: Mutant, *, most: int, first_seed: int = 1) -> tuple[int, str] | None:
    """How many histories it takes until the bug is found, and what is said of it; None: more than `most`."""
    with mutant.planted():
        for n in range(most):
            violations = episode.run(first_seed + n).violations
            if violations:
                return n + 1, violations[0]
    return None
