"""The norm of all gradients together, at every step of a directive, kept on the device until it is over.

It is what the optimizer sees when it is called: unscaled, and after clipping. Notation: an update is one call of an
optimizer's `step`; a step of the run is an update of all optimizers that have one in it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lrpilot.backends.torch.updates import family_of, remove_hooks

GRADIENT_NORM = "gradient_norm"
"""The measure's name."""
_HOST = torch.device("cpu")
_BELOW_SINGLE = (torch.float16, torch.bfloat16)

log = logging.getLogger("lrpilot")


class GradientNorms:
    """Collects the norm of every step with no device synchronisation and no allocation that grows.

    `begin` a directive that asks for it, `append` after every step, `flush` at the end, and `end` where the next
    directive doesn't ask. In between, optimizers have a hook; otherwise they have none, and a step costs nothing.

    Of several updates of an optimizer in one step the last one counts. Where an optimizer steps another one, as SAM
    does, the inner one's gradients count, since they move the weights. A step has no norm (NaN) where no hook was
    called, where an update was compiled, where a CUDA graph was recorded, or where a gradient is sparse and not
    coalesced on a device, which could be told only by waiting for it.

    A compiled `step` has the hook traced into it, where computing a norm would change the graphs, and so perhaps the
    weights. Traced, the hook only notes that there was such an update. Dynamo guards on the hooks and on their ids,
    and compiles `step` at most once with and once without the hook, as both stay the same in all directives.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Watches nothing yet."""
        self._optimizers = tuple(optimizers)
        self._watched: list[torch.optim.Optimizer] = []
        self._handles: list[Any] = []
        self._hook = _hook(weakref.ref(self))
        self._ids: dict[int, int] = {}  # the hook's id in each optimizer, from when it was first there
        # The last update of every optimizer since the last step, the latest one last; None: it could not be measured.
        self._updates: dict[int, tuple[torch.optim.Optimizer, torch.Tensor | None]] = {}
        self._was_compiled = False  # an update since the last step
        self._earlier: list[float] = []
        self._memory = torch.empty(0, dtype=torch.float32, device=_HOST)
        self._n_norms = 0
        self._failed = False
        weakref.finalize(self, remove_hooks, self._handles)

    def begin(self, n_steps: int, earlier: Sequence[float] = ()) -> None:
        """Starts anew.

        Args:
            n_steps: how many norms fit between two calls of `flush`.
            earlier: norms of steps that come before, of a run that is resumed.
        """
        self.end()
        self._earlier = list(earlier)
        device = self._device()
        if self._memory.device != device or len(self._memory) < n_steps:
            self._memory = torch.empty(n_steps, dtype=torch.float32, device=device)
        self._watch()

    def end(self) -> None:
        """Watches no longer, and forgets what there was."""
        remove_hooks(self._handles)
        self._forget()

    @property
    def active(self) -> bool:
        """Whether norms are taken."""
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

    @torch.no_grad()
    def see(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the norm of the gradients with which an optimizer is about to move its weights."""
        self._updates.pop(id(optimizer), None)
        norm = None
        try:
            if not self._is_recorded():
                norm = _norm(optimizer, self._memory.device)
        except Exception as error:
            self._say(error)
        self._updates[id(optimizer)] = (optimizer, norm)

    def see_compiled(self) -> None:
        """Notes a compiled update. It is traced, and reads nothing of the object: Dynamo guards on all that is read."""
        self._was_compiled = True

    @torch.inference_mode(False)
    @torch.no_grad()
    def append(self) -> None:
        """Adds the norm of the step that was made; where that fails, none is taken until the next `begin`."""
        if not self.active:
            return
        try:
            self._memory[self._n_norms].copy_(self._norm_of_step())
        except Exception as error:  # the training is not to end for a norm
            self._say(error)
            self.end()
            return
        self._n_norms += 1
        self.skip()

    def skip(self) -> None:
        """Forgets the updates since the last step: they were none."""
        self._updates.clear()
        self._was_compiled = False

    def flush(self, n_steps: int) -> list[float]:
        """The norms of the last `n_steps` steps; all are forgotten. Synchronises once."""
        norms = self.peek()[-n_steps:]
        self._forget()
        return [math.nan] * (n_steps - len(norms)) + norms

    def peek(self) -> list[float]:
        """The norms since `begin` or the last flush, oldest first. Synchronises once."""
        kept: list[float] = self._memory[: self._n_norms].tolist()
        return self._earlier + kept

    def _forget(self) -> None:
        self._earlier = []
        self._n_norms = 0
        self.skip()

    def _watch(self) -> None:
        if not self._watched:
            self._watched = [each for optimizer in self._optimizers for each in family_of(optimizer)]
        for optimizer in self._watched:
            with contextlib.suppress(AttributeError):  # a wrapper that was not made as optimizers are has no hooks
                handle: Any = optimizer.register_step_pre_hook(self._hook)
                self._handles.append(handle)
                # Every registration has an id of its own, for which a compiled step would be compiled anew.
                hooks = handle.hooks_dict_ref()
                hook = hooks.pop(handle.id)
                handle.id = self._ids.setdefault(id(optimizer), handle.id)
                hooks[handle.id] = hook

    def _device(self) -> torch.device:
        """Where norms are collected: on an accelerator, if a parameter is on one."""
        devices = [parameter.device for optimizer in self._optimizers for parameter in _parameters(optimizer)]
        return next((device for device in devices if device.type != "cpu"), _HOST)

    def _is_recorded(self) -> bool:
        """Whether a CUDA graph is being recorded: what is computed now has no value yet."""
        return self._memory.device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def _norm_of_step(self) -> torch.Tensor:
        """The norm of this step's updates together; NaN: there were none, or one could not be measured."""
        norms = self._counting()
        known = [norm for norm in norms if norm is not None]
        if self._was_compiled or not norms or len(known) < len(norms):
            return torch.full((), math.nan, device=self._memory.device)
        return _total(known)

    def _counting(self) -> list[torch.Tensor | None]:
        """The norms of this step's updates, each parameter once.

        Of an optimizer and those that it stepped, these count if they have all of its parameters, and it alone if they
        have a part of them.
        """
        updates = list(self._updates.values())
        if len(updates) <= 1:
            return [norm for _, norm in updates]
        counting: list[tuple[set[int], torch.Tensor | None]] = []
        moved: set[int] = set()
        for optimizer, norm in reversed(updates):
            own = set(map(id, _parameters(optimizer)))
            if not own <= moved:
                counting = [each for each in counting if not each[0] <= own] + [(own, norm)]
            moved |= own
        return [norm for _, norm in counting]

    def _say(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            log.warning("lrpilot: the gradients' norm can't be taken: %s: %s", type(error).__name__, error)


def _norm(optimizer: torch.optim.Optimizer, device: torch.device) -> torch.Tensor:
    """The L2 norm of all gradients of an optimizer's parameters, on a device. A fused optimizer's are scaled still."""
    kinds: dict[tuple[torch.device, torch.dtype, int], list[torch.Tensor]] = {}
    for parameter in _parameters(optimizer):
        if parameter.grad is not None:
            gradient, n_shards = _own_part(parameter.grad)
            kinds.setdefault((gradient.device, gradient.dtype, n_shards), []).append(gradient)
    norms: list[torch.Tensor] = []
    for (_, dtype, n_shards), gradients in kinds.items():
        single = torch.float32 if dtype in _BELOW_SINGLE else None
        found = torch._foreach_norm(gradients, 2, dtype=single)
        norms += found if n_shards == 1 else torch._foreach_mul(found, math.sqrt(n_shards))
    if not norms:
        return torch.zeros((), device=device)
    norm = _total([each.to(device, non_blocking=True) for each in norms])
    scale = getattr(optimizer, "grad_scale", None)
    return norm if scale is None else norm / scale.to(device, non_blocking=True)


def _total(norms: list[torch.Tensor]) -> torch.Tensor:
    """The norm of all, from the norms of parts."""
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def _own_part(gradient: torch.Tensor) -> tuple[torch.Tensor, int]:
    """What of a gradient lies in this process, real and dense, and of how many shards it is one.

    A rank takes the norm that the whole would have if all shards were like its own, without communication. The
    quadratic mean of that over the ranks is the norm of the whole.

    Raises:
        NotImplementedError: it is not reduced over the ranks yet, or what it is can't be told without waiting for it.
    """
    n_shards = 1
    tensor = sys.modules.get("torch.distributed.tensor")
    if tensor is not None and isinstance(gradient, tensor.DTensor):
        if any(placement.is_partial() for placement in gradient.placements):
            raise NotImplementedError("a gradient is not reduced over the ranks yet")
        sizes = zip(gradient.device_mesh.shape, gradient.placements, strict=True)
        n_shards = math.prod(size for size, placement in sizes if placement.is_shard())
        gradient = gradient.to_local()
    if gradient.is_sparse:
        if gradient.device.type != "cpu" and not gradient.is_coalesced():
            raise NotImplementedError("a gradient is sparse, and has no norm before it is coalesced")
        gradient = gradient.coalesce().values()
    return (torch.view_as_real(gradient) if gradient.is_complex() else gradient), n_shards


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _hook(norms: weakref.ref[GradientNorms]) -> Any:
    def before(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Sees the gradients; those of a `step` with a closure when the closure has made them."""
        target = norms()
        if target is None:
            return None
        if torch.compiler.is_compiling():
            target.see_compiled()
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            target.see(optimizer)
            return None

        def seen(*inner: Any, **named: Any) -> Any:
            loss = closure(*inner, **named)
            target.see(optimizer)
            return loss

        return ((args[0], seen, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": seen})

    return before
