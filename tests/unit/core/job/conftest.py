"""What the tests of a job's life share."""

from __future__ import annotations

import pytest

from tests.support.jobs.scripted_policy import Scripted
from tuner_server.core import policies


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted policy can be chosen."""
    monkeypatch.setitem(policies.POLICIES, Scripted.name, Scripted)
