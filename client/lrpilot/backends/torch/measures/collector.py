"""What is measured at every step of a directive besides the loss, kept on the device until it is over.

Gradients are what the optimizer sees when it is called: unscaled, and after clipping. Notation: an update is one call
of an optimizer's `step`; a step of the run is an update of all optimizers that have one in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lrpilot.backends.torch.asynchronous import is_recording
from lrpilot.backends.torch.measures.direction import Direction
from lrpilot.backends.torch.measures.gradient_l1_norm import GradientL1Norm
from lrpilot.backends.torch.measures.gradient_norm import GradientNorm
from lrpilot.backends.torch.measures.gradient_over_eps import GradientOverEps, has_eps
from lrpilot.backends.torch.measures.gradients import Gradients, parameters_of
from lrpilot.backends.torch.measures.hooks import OutputHook, hook_after, hook_before, register
from lrpilot.backends.torch.measures.measure import DirectionMeasure, GradientMeasure, Measure, UpdateMeasure
from lrpilot.backends.torch.measures.output_logit import LargestOutput, OutputLogit
from lrpilot.backends.torch.measures.update_norm import UpdateNorm
from lrpilot.backends.torch.measures.update_product import UpdateProduct
from lrpilot.backends.torch.measures.update_ratio import UpdateRatio
from lrpilot.backends.torch.updates import family_of, remove_hooks

MEASURES: tuple[Measure, ...] = (
    GradientNorm(),
    GradientL1Norm(),
    GradientOverEps(),
    UpdateRatio(),
    UpdateNorm(),
    UpdateProduct(),  # the last one: it spoils what the others read of an update
    OutputLogit(),
)
_HOST = torch.device("cpu")

log = logging.getLogger("lrpilot")


@dataclasses.dataclass(slots=True)
class _Update:
    """The last update of an optimizer since the last step, and its values by measure; None: it could not be had."""

    optimizer: torch.optim.Optimizer
    values: dict[str, torch.Tensor | None]


class MeasureCollector:
    """Collects measures of every step with no device synchronisation and no allocation that grows.

    `begin` a directive that asks for some, `append` after every step, `flush` at the end, and `end` where the next
    directive doesn't ask. In between, optimizers and the modules that have the logits have hooks; otherwise they have
    none, and a step costs nothing.

    Of several updates of an optimizer in one step the last one counts. Where an optimizer steps another one, as SAM
    does, the inner one's count, since they move the weights. A step has no value (NaN) where no hook was called, where
    an update was compiled, where a CUDA graph was recorded, or where a gradient is sparse and not coalesced on a
    device, which could be told only by waiting for it.

    What is measured of an update before needs one copy of the weights, which is there only while it is asked for. It
    goes on from one directive to the next. It is no part of the run: after a rollback or a restart, and after an update
    that could not be seen, the first step has no value. An update that a GradScaler leaves out changes nothing in it.

    A compiled `step` has the hooks traced into it, where computing anything would change the graphs, and so perhaps the
    weights. Traced, they only note that there was such an update. Dynamo guards on the hooks and on their ids, and
    compiles each part of `step` at most once with and once without its hook, as they stay the same in all directives.
    In a compiled module the hook that sees outputs is no code, so a step in which no other forward call is seen has no
    largest logit.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], logits: Sequence[nn.Module] = ()) -> None:
        """Watches nothing yet; `logits`: the modules whose outputs are the logits."""
        self._optimizers = tuple(optimizers)
        self._modules = tuple(logits)
        self._measures: tuple[Measure, ...] = ()
        self._watched: list[torch.optim.Optimizer] = []
        self._handles: list[Any] = []
        self._before, self._after = hook_before(weakref.ref(self)), hook_after(weakref.ref(self))
        self._output_hook = OutputHook(weakref.ref(self))
        self._ids: dict[tuple[str, int], int] = {}  # each hook's id where it hooks, from when it was first there
        self._updates: dict[int, _Update] = {}  # since the last step, the latest one last
        self._was_compiled = False  # an update since the last step
        self._output = LargestOutput()
        self._directions: dict[int, Direction] = {}  # of the optimizers that move the weights
        self._opening: set[int] = set()  # optimizers that were called, and whose weights were not copied yet
        self._earlier: Mapping[str, Sequence[float]] = {}
        self._memory = torch.empty(0, 0, dtype=torch.float32, device=_HOST)
        self._n_values = 0
        self._said: set[str] = set()
        weakref.finalize(self, remove_hooks, self._handles)

    @property
    def names(self) -> tuple[str, ...]:
        """What can be measured."""
        lacking: set[type[Measure]] = set() if self._modules else {OutputLogit}
        if not any(map(has_eps, self._optimizers)):
            lacking.add(GradientOverEps)
        return tuple(each.name for each in MEASURES if type(each) not in lacking)

    def begin(self, n_steps: int, earlier: Mapping[str, Sequence[float]]) -> None:
        """Starts anew.

        Args:
            n_steps: how many values fit between two calls of `flush`.
            earlier: what to measure, by name; each with its values of steps that come before, of a run that is resumed.
        """
        remove_hooks(self._handles)
        self._forget()
        self._measures = tuple(each for each in MEASURES if each.name in earlier)
        self._earlier = {name: list(values) for name, values in earlier.items()}
        device = self._device()
        if self._memory.device != device or len(self._memory) != len(self._measures) or self._room < n_steps:
            self._memory = torch.empty(len(self._measures), n_steps, dtype=torch.float32, device=device)
        if not self._watched:
            self._watched = [each for optimizer in self._optimizers for each in family_of(optimizer)]
        self._keep_directions()
        self._watch()

    def end(self) -> None:
        """Watches no longer, and forgets what there was."""
        remove_hooks(self._handles)
        self._forget()
        self._directions = {}

    @property
    def active(self) -> bool:
        """Whether anything is measured."""
        return bool(self._handles)

    @contextlib.contextmanager
    def unhooked(self) -> Iterator[None]:
        """Takes the hooks away inside: they are no part of the run, and no snapshot has them."""
        active = self.active
        remove_hooks(self._handles)
        try:
            yield
        finally:
            if active:
                self._watch()

    def part(self) -> None:
        """Forgets the last directions: the weights are others, and the next update does not follow the last one."""
        for direction in self._directions.values():
            direction.forget()

    def open(self, optimizer: torch.optim.Optimizer) -> None:
        """Notes that an optimizer was called; its gradients are seen before it moves the weights."""
        self._updates.pop(id(optimizer), None)
        if id(optimizer) in self._directions:
            self._opening.add(id(optimizer))

    @torch.no_grad()
    def see(self, optimizer: torch.optim.Optimizer) -> None:
        """Measures the gradients with which an optimizer is about to move its weights, perhaps not for the first time.

        What is told of the update before is told by the first gradients, at the weights that it led to.
        """
        update = self._updates.pop(id(optimizer), None) or _Update(optimizer, {})
        self._updates[id(optimizer)] = update
        if self._is_recorded():
            update.values = {}
            return
        gradients = Gradients(optimizer, self._memory.device)
        for measure in self._measures:
            if isinstance(measure, GradientMeasure):
                self._take(update, measure, measure.take, gradients)
        if id(optimizer) in self._opening and not _is_left_out(optimizer):
            self._opening.discard(id(optimizer))
            direction = self._directions[id(optimizer)]
            for measure in self._measures:
                if isinstance(measure, DirectionMeasure) and direction.known:
                    self._take(update, measure, measure.take, gradients, direction)
            self._try("the weights can't be kept", direction.open, optimizer)

    def see_compiled(self) -> None:
        """Notes a compiled update. It is traced, and reads nothing of the object: Dynamo guards on all that is read."""
        self._was_compiled = True

    @torch.no_grad()
    def close(self, optimizer: torch.optim.Optimizer) -> None:
        """Measures the update that an optimizer has made."""
        update, direction = self._updates.get(id(optimizer)), self._directions.get(id(optimizer))
        if id(optimizer) in self._opening or update is None or direction is None or self._is_recorded():
            self._opening.discard(id(optimizer))
            return
        lr = self._optimizers[0].param_groups[0]["lr"]
        if self._try("the last update can't be told", direction.close, optimizer, lr):
            for measure in self._measures:
                if isinstance(measure, UpdateMeasure):
                    self._take(update, measure, measure.take, direction)

    @torch.no_grad()
    def see_output(self, output: object) -> None:
        """Measures what a module that has logits gives, of one forward call of perhaps several in a step."""
        if self._is_recorded():
            self._output.miss()
            return
        for measure in self._measures:
            if isinstance(measure, OutputLogit):
                try:
                    self._output.add(measure.take(output, self._memory.device))
                except Exception as error:  # the training is not to end for a measure
                    self._output.miss()
                    self._say(f"{measure.name} can't be measured", error)

    @torch.inference_mode(False)
    @torch.no_grad()
    def append(self) -> None:
        """Adds the values of the step that was made; where that fails, none are taken until the next `begin`."""
        if not self.active:
            return
        try:
            self._memory[:, self._n_values].copy_(torch.stack(self._values_of_step()))
        except Exception as error:  # the training is not to end for a measure
            self._say(f"{', '.join(each.name for each in self._measures)} can't be measured", error)
            self.end()
            return
        self._n_values += 1
        if self._was_compiled:
            self.part()
        self.skip()

    def skip(self) -> None:
        """Forgets the updates and the outputs since the last step: it was none."""
        self._updates.clear()
        self._output.forget()
        self._was_compiled = False

    def forget(self, steps: Collection[int]) -> None:
        """Takes the values of steps out that were none, counted from the first of `earlier`."""
        if not (self.active and steps):
            return
        n_earlier = len(next(iter(self._earlier.values()), ()))
        kept = [i for i in range(self._n_values) if n_earlier + i not in steps]
        self._memory[:, : len(kept)] = self._memory[:, kept]
        self._n_values = len(kept)

    def flush(self, n_steps: int) -> dict[str, list[float]]:
        """The values of the last `n_steps` steps by name; all are forgotten. Synchronises once."""
        found = {name: values[-n_steps:] for name, values in self.peek().items()}
        self._forget()
        return {name: [math.nan] * (n_steps - len(values)) + values for name, values in found.items()}

    def peek(self) -> dict[str, list[float]]:
        """The values since `begin` or the last flush by name, oldest first. Synchronises once."""
        if not self.active:
            return {}
        kept: list[list[float]] = self._memory[:, : self._n_values].tolist()
        return {
            each.name: [*self._earlier.get(each.name, ()), *values]
            for each, values in zip(self._measures, kept, strict=True)
        }

    @property
    def _room(self) -> int:
        return int(self._memory.shape[1])

    def _forget(self) -> None:
        self._earlier = {}
        self._n_values = 0
        self.skip()

    def _watch(self) -> None:
        outputs = [each for each in self._measures if isinstance(each, OutputLogit)]
        for module in self._modules if outputs else ():
            self._handles.append(register(self._ids, "output", module, self._output_hook))
        for optimizer in self._watched if len(self._measures) > len(outputs) else ():
            with contextlib.suppress(AttributeError):  # a wrapper that was not made as optimizers are has no hooks
                self._handles.append(register(self._ids, "before", optimizer, self._before))
                if self._directions:
                    self._handles.append(register(self._ids, "after", optimizer, self._after))

    def _keep_directions(self) -> None:
        """Has a direction for each optimizer that moves weights: the outer one, unless inner ones move all of its."""
        if not any(isinstance(each, DirectionMeasure | UpdateMeasure) for each in self._measures):
            self._directions = {}
            return
        movers: list[torch.optim.Optimizer] = []
        for optimizer in self._optimizers:
            outer, *inner = family_of(optimizer)
            moved = {id(parameter) for each in inner for parameter in parameters_of(each)}
            movers += inner if inner and set(map(id, parameters_of(outer))) <= moved else [outer]
        self._directions = {id(each): self._directions.get(id(each)) or Direction() for each in movers}

    def _device(self) -> torch.device:
        """Where values are collected: on an accelerator, if a parameter is on one."""
        devices = [parameter.device for optimizer in self._optimizers for parameter in parameters_of(optimizer)]
        return next((device for device in devices if device.type != "cpu"), _HOST)

    def _is_recorded(self) -> bool:
        """Whether a CUDA graph is being recorded: what is computed now has no value yet."""
        return is_recording(self._memory.device)

    def _values_of_step(self) -> list[torch.Tensor]:
        """The value of each measure; NaN: there were no updates or outputs, or one could not be measured."""
        updates = [] if self._was_compiled else self._counting()
        found = []
        for measure in self._measures:
            if isinstance(measure, OutputLogit):
                known = self._output.known()
            else:
                known = [value for each in updates if (value := each.values.get(measure.name)) is not None]
                known = known if len(known) == len(updates) else []
            if known:
                found.append(measure.together(known).to(self._memory.device, torch.float32, non_blocking=True))
            else:
                found.append(torch.full((), math.nan, device=self._memory.device))
        return found

    def _counting(self) -> list[_Update]:
        """This step's updates, each parameter once.

        Of an optimizer and those that it stepped, these count if they have all of its parameters, and it alone if they
        have a part of them.
        """
        updates = list(self._updates.values())
        if len(updates) <= 1:
            return updates
        counting: list[tuple[set[int], _Update]] = []
        moved: set[int] = set()
        for update in reversed(updates):
            own = set(map(id, parameters_of(update.optimizer)))
            if not own <= moved:
                counting = [each for each in counting if not each[0] <= own] + [(own, update)]
            moved |= own
        return [update for _, update in counting]

    def _take(self, update: _Update, measure: Measure, take: Callable[..., torch.Tensor], *arguments: Any) -> None:
        """Takes a measure's value of an update, if it can be had."""
        update.values[measure.name] = None
        try:
            update.values[measure.name] = take(*arguments)
        except Exception as error:  # the training is not to end for a measure
            self._say(f"{measure.name} can't be measured", error)

    def _try(self, fault: str, act: Callable[..., None], *arguments: Any) -> bool:
        """Whether something could be done; what could not is said once."""
        try:
            act(*arguments)
        except Exception as error:  # the training is not to end for a measure
            self._say(fault, error)
            self.part()
            return False
        return True

    def _say(self, fault: str, error: Exception) -> None:
        if fault not in self._said:
            self._said.add(fault)
            log.warning("lrpilot: %s: %s: %s", fault, type(error).__name__, error)


def _is_left_out(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer is about to leave an update out, as far as that can be told without waiting."""
    overflow = getattr(optimizer, "found_inf", None)
    return overflow is not None and overflow.device.type == "cpu" and bool(overflow)
