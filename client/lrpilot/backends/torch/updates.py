"""What the optimizers' hooks tell: whether the weights were moved, and whether the tuner is called as it should be.

Notation: an update is one call of an optimizer's `step`; a step of the run is an update of all optimizers that have one
in it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import register_optimizer_step_post_hook

from lrpilot.backends.torch.asynchronous import is_recording, runs_ahead
from lrpilot.objects.graph import ObjectGraph

_HOST = torch.device("cpu")
FORGOTTEN = 3
"""Updates in a row with no `tuner.step` that can't all belong together."""
LONGEST_PAUSE = 100
"""After so many calls in a row without an update the hooks are not believed: a compiled step does not call them."""

log = logging.getLogger("lrpilot")


class Updates:
    """Counts the updates of optimizers, and of those inside them.

    Not every optimizer calls its hooks (a compiled step does not, nor does a class that is no `torch.optim.Optimizer`);
    as long as none has been called, nothing is known. Nor is it of updates that were recorded in a CUDA graph, which is
    carried out again and again with no call.

    An optimizer that handles overflows itself (fused, capturable) is called all the same. On the CPU its flag is read.
    On other devices that would cost a synchronisation a step, so there the update counts, with its flag beside it.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], *, scaled: bool) -> None:
        """Watches the optimizers as long as it lives; `scaled`: a GradScaler may skip updates, the first ones too."""
        families = [family_of(optimizer) for optimizer in optimizers]
        self._counts = [[0] * len(family) for family in families]
        self._made = 0
        self._known = scaled
        self._scaled = scaled
        self._idle = 0
        self._calls = 0
        self._said: set[str] = set()
        self._overflows: list[torch.Tensor] = []
        self._n_sound = 0
        self._recorded = False
        self._on_host: set[tuple[int, int]] = set()
        self.overflow: torch.Tensor | None = None
        """The last update's flag, where its device decides whether it is skipped: then it is not zero."""
        self._watching = True
        self._handles: list[Any] = []
        for number, family in enumerate(families):
            for member, optimizer in enumerate(family):
                with contextlib.suppress(AttributeError):  # a wrapper that was not made as optimizers are has no hooks
                    hook = _hook(weakref.ref(self), number, member)
                    self._handles.append(optimizer.register_step_post_hook(hook))
        self._strangers = Strangers([optimizer for family in families for optimizer in family])
        weakref.finalize(self, remove_hooks, self._handles)

    def took_place(self) -> bool:
        """Whether there was an update since the last call, as far as that is known; forgets it."""
        made = self._made
        fewest = self._fewest() if made > len(self._counts) else 1
        self._forget()
        self._calls += 1
        if made:
            self._idle = 0
            if fewest > 1 and self._calls > 1:
                self._say_rare(fewest)
            return True
        self._idle += 1
        if self._calls == FORGOTTEN and not self._known:
            self._say_strange()
        self._known = self._known and self._idle <= LONGEST_PAUSE
        return self._recorded or not self._known

    def say_idle(self) -> None:
        """Says that a step without an update was not counted; a GradScaler may have skipped it."""
        if not self._scaled:
            self._say(
                "idle",
                "tuner.step(loss) was called with no optimizer.step() since the last time, and does not count: call it "
                "once after every optimizer.step(), not for every micro-batch (a GradScaler that skipped the update "
                "belongs into register=)",
            )

    def watch(self) -> None:
        """A directive begins. After `pause` it watches again: the run goes on."""
        self._on_host.clear()
        if not self._watching:
            self._watching = True
            self._calls = 0
            self._forget()

    def pause(self) -> None:
        """Watches no longer for now. The hooks stay, as a snapshot that is restored later would bring them back."""
        self._watching = False

    def close(self) -> None:
        """Watches no longer."""
        self._watching = False
        self._strangers.close()
        remove_hooks(self._handles)

    def add(self, number: int, member: int, optimizer: torch.optim.Optimizer) -> None:
        """Notes that an optimizer, or one inside it, was called."""
        if not self._watching:
            return
        overflow = getattr(optimizer, "found_inf", None)
        if (number, member) not in self._on_host and not self._recorded:
            self._look_for_graph(number, member, optimizer)
        if overflow is not None and runs_ahead(overflow.device):
            self._overflows.append(overflow)
        elif overflow:
            return
        else:
            self._n_sound += 1
        if not self._known:
            self._known = True
            self._strangers.close()
            if self._calls == 1:
                self._say(
                    "order",
                    "tuner.step(loss) came before the first optimizer.step(): call it after it (a GradScaler that "
                    "skipped that update belongs into register=)",
                )
        self._made += 1
        self._counts[number][member] += 1
        if self._counts[number][member] >= FORGOTTEN:
            fewest = self._fewest()
            if fewest >= FORGOTTEN:
                self._say_rare(fewest)

    def _look_for_graph(self, number: int, member: int, optimizer: torch.optim.Optimizer) -> None:
        """Sees whether an update is recorded in a graph; on a host none is, so there it is asked once a directive."""
        device = _device_of(optimizer)
        self._recorded = is_recording(device)
        if not runs_ahead(device):
            self._on_host.add((number, member))

    def _fewest(self) -> int:
        """How often each optimizer has been called, at least."""
        return min(map(_updates, self._counts))

    def _forget(self) -> None:
        """Begins to count anew. An update was skipped if no optimizer made one."""
        self.overflow = None
        if self._overflows:
            flags, self._overflows = self._overflows, []
            if not self._n_sound:
                alike = (flag.to(flags[0].device, non_blocking=True) for flag in flags)
                self.overflow = functools.reduce(torch.minimum, alike)
        self._n_sound = 0
        if self._made:
            self._made = 0
            for counts in self._counts:
                counts[:] = [0] * len(counts)

    def _say_rare(self, count: int) -> None:
        self._say(
            "rare",
            f"optimizer.step() was called {count} times with no tuner.step(loss) in between: call tuner.step once "
            "after every optimizer.step(), or the schedule stands still",
        )

    def _say_strange(self) -> None:
        """Says what is wrong, if something is, where none of the tuner's optimizers has been seen to step."""
        strangers = self._strangers
        strangers.close()
        if strangers.of_ours:
            self._say(
                "strange",
                f"another optimizer, of class {strangers.seen}, steps the weights that the tuner's has: make the tuner "
                "after the optimizer, and step the one that it was given",
            )
        elif not strangers.changed:
            other = f", but an optimizer of other weights, {strangers.seen}, is stepped" if strangers.seen else ""
            self._say(
                "strange",
                f"tuner.step(loss) was called {FORGOTTEN} times and no weight of the tuner's optimizer was "
                f"changed{other}: call optimizer.step() before it, on the optimizer and the model that the tuner has",
            )

    def _say(self, what: str, sentence: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("lrpilot: %s", sentence)


class Strangers:
    """Sees which other optimizers are stepped, as long as none of the tuner's is: a loop may have made its own anew."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Watches for all but these."""
        self._own = {id(optimizer) for optimizer in optimizers}
        self._weights = [weakref.ref(weight) for weight in _weights(optimizers)]
        self._versions = _versions(self._weights)
        self.seen = ""
        """The class of another optimizer that was stepped; empty: none was."""
        self.of_ours = False
        """Whether it has weights of the tuner's."""
        found = weakref.ref(self)

        def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            target = found()
            if target is not None:
                target.add(optimizer)

        self._handles: list[Any] = [register_optimizer_step_post_hook(count)]
        weakref.finalize(self, remove_hooks, self._handles)

    def add(self, optimizer: torch.optim.Optimizer) -> None:
        """Notes that an optimizer was stepped."""
        if id(optimizer) in self._own or self.of_ours:
            return
        self.seen = type(optimizer).__name__
        ours = {id(weight()) for weight in self._weights}
        self.of_ours = any(id(weight) in ours for weight in _weights([optimizer]))

    @property
    def changed(self) -> bool:
        """Whether a weight of the tuner's optimizers may have been changed in place.

        A compiled step is not seen, but does that; one that a device replays is not seen at all.
        """
        alive = [weight for reference in self._weights if (weight := reference()) is not None]
        return any(weight.device.type != "cpu" for weight in alive) or _versions(self._weights) != self._versions

    def close(self) -> None:
        """Watches no longer."""
        remove_hooks(self._handles)


def _weights(optimizers: Sequence[torch.optim.Optimizer]) -> list[torch.Tensor]:
    groups = [group for optimizer in optimizers for group in getattr(optimizer, "param_groups", ())]
    return [weight for group in groups for weight in group.get("params", ()) if isinstance(weight, torch.Tensor)]


def _versions(weights: Sequence[weakref.ref[torch.Tensor]]) -> list[int]:
    """How often each weight was changed in place; those that don't tell are left out, as those of lazy layers."""
    alive = [weight for reference in weights if (weight := reference()) is not None]
    return [weight._version for weight in alive if not (is_lazy(weight) or weight.is_inference())]


def _updates(counts: list[int]) -> int:
    """How often an optimizer was called, by its own hook, or, if that is not, by those of optimizers inside it."""
    return counts[0] or max(counts)


def family_of(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """An optimizer and those in it: SAM steps the one that it wraps, and Accelerate's wrapper has no hooks."""
    graph = ObjectGraph()
    graph.add(optimizer)
    return [optimizer, *(each for each in graph.optimizers if each is not optimizer)]


def _hook(updates: weakref.ref[Updates], number: int, member: int) -> Any:
    def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        target = updates()
        if target is not None:
            target.add(number, member, optimizer)

    return count


def _device_of(optimizer: torch.optim.Optimizer) -> torch.device:
    """Where an optimizer's first parameter is."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            return parameter.device  # type: ignore[no-any-return]  # groups hold anything
    return _HOST


def remove_hooks(handles: list[Any]) -> None:
    """Removes hooks by their handles, and empties the list."""
    while handles:
        handles.pop().remove()
