from __future__ import annotations

import inspect
import typing

from lrpilot.run.driver import Driver
from lrpilot.run.options import JobOptions


def test_they_are_what_a_driver_takes() -> None:
    taken = inspect.signature(Driver).parameters.keys()
    assert typing.get_type_hints(JobOptions).keys() == taken - {"backend", "ranks", "population"}
