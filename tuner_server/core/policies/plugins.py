"""Policies of other packages, which offer them as entry points of the group `lrpilot.policies`: a name, and a class.

A policy is imported when a job first names it, and not before. One that can't be used is refused with a sentence to
whoever names it; no other job notices. What is installed is looked up once, so that a package which is installed, or
uninstalled, while a server runs is seen by the next process.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tuner_server.core.faults import described, users_own
from tuner_server.core.policies.base import Options, Policy, PolicyState

GROUP = "lrpilot.policies"


class UnusablePolicyError(Exception):
    """What is offered under a name is no policy that could run; the message says why."""


@functools.cache
def offered() -> Mapping[str, tuple[EntryPoint, ...]]:
    """What the installed packages offer, by name."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=GROUP):
        # A package that lies on the path twice offers the same thing once.
        if point.value not in {known.value for known in found.get(point.name, ())}:
            found[point.name] = (*found.get(point.name, ()), point)
    return found


def hidden(built_in: Collection[str]) -> list[str]:
    """A sentence for each policy that nobody can name, as one of LRPilot's own has its name."""
    return [
        f"policy {name!r} of {_package(point)} can't be used: LRPilot has one of this name; give it another"
        for name, points in sorted(offered().items())
        for point in points
        if name in built_in
    ]


def load(name: str) -> type[Policy[Any, Any]]:
    """The policy that a package offers under a name, which `offered` has. Raises: UnusablePolicyError: it is none."""
    loaded = _loaded(name)
    if isinstance(loaded, str):
        raise UnusablePolicyError(loaded)
    return loaded


@functools.cache
def _loaded(name: str) -> type[Policy[Any, Any]] | str:
    """The policy, or why it can't be used: an import that failed is not tried again for every job."""
    points = offered()[name]
    if len(points) > 1:
        packages = " and ".join(sorted(map(_package, points)))
        return f"policy {name!r} is offered by {packages}; uninstall all but one"
    try:
        found = points[0].load()
    except BaseException as error:
        if users_own(error):
            raise
        fault = f"its import fails with {described(error)}"
    else:
        fault = _fault(name, found)
        if not fault:
            return found  # type: ignore[no-any-return]
    return f"policy {name!r} of {_package(points[0])} can't be used: {fault}"


def _fault(name: str, found: Any) -> str:
    """Why a job can't be tuned by what a package offers; empty: it can be."""
    if not (isinstance(found, type) and issubclass(found, Policy)):
        return f"{found!r} is no subclass of {Policy.__module__}.{Policy.__name__}"
    if inspect.isabstract(found):
        return f"{found.__name__} lacks {', '.join(sorted(found.__abstractmethods__))}"
    if getattr(found, "name", None) != name:
        return f"{found.__name__} calls itself {getattr(found, 'name', None)!r}; its `name` must be that of its entry"
    for attribute, base in (("options_type", Options), ("state_type", PolicyState)):
        kind = getattr(found, attribute, None)
        if not (isinstance(kind, type) and issubclass(kind, base)):
            return f"the `{attribute}` of {found.__name__} is no subclass of {base.__module__}.{base.__name__}"
    return ""


def _package(point: EntryPoint) -> str:
    """The package that an entry point comes from, with its version."""
    return f"package {point.dist.name} {point.dist.version}" if point.dist is not None else repr(point.value)
