"""What a snapshot remembers of one moment."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lrpilot.backends.torch.asynchronous import runs_ahead
from lrpilot.backends.torch.rollback.memory import Pairs, kind, values
from lrpilot.backends.torch.rollback.modes import Mode
from lrpilot.objects.graph import ObjectGraph
from lrpilot.objects.tensor_form import TensorForm
from lrpilot.rng import RandomState


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A place of state that is had, and put back, by methods."""

    name: str
    get: Callable[[], Any]
    load: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """What can be reached from some roots, at one moment."""

    graph: ObjectGraph
    contents: list[Any]
    forms: list[TensorForm]
    pairs: Pairs
    """What was copied, where it lay, and the copies."""
    versions: list[int | None]
    """Counts of changes: a tensor with a history can't be written to unless it was."""

    @classmethod
    def of(cls, graph: ObjectGraph, pairs: Pairs, forms: list[TensorForm] | None = None) -> Part:
        """Now; `forms` are known where they are those of another part (`is_of`)."""
        if forms is None:
            forms = [TensorForm(tensor) for tensor in (*graph.tensors, *graph.hollow)]
        return cls(
            graph=graph,
            contents=graph.contents(),
            forms=forms,
            pairs=pairs,
            versions=[None if tensor.is_inference() else tensor._version for tensor in graph.tensors],
        )

    def is_of(self, graph: ObjectGraph) -> bool:
        """Whether there are the same tensors in another moment, with all their values where they were."""
        own = self.graph
        return (
            len(own.tensors) == len(graph.tensors)
            and len(own.hollow) == len(graph.hollow)
            and all(map(operator.is_, own.tensors, graph.tensors))
            and all(map(operator.is_, own.hollow, graph.hollow))
            and all(form.is_current() for form in self.forms)
        )

    def refill(self) -> None:
        """Gives the objects their contents back."""
        self.graph.refill(self.contents)

    def standing(self) -> list[bool]:
        """Which tensors can be filled at once: nothing but their values, and whether they are trained, has to go back.

        They are in the order of the forms.
        """
        known = zip(self.versions, self.forms, self.graph.tensors, strict=False)
        standing = [version is not None and form.holds() and tensor.is_leaf for version, form, tensor in known]
        return standing + [False] * len(self.graph.hollow)

    def fill(self, standing: Sequence[bool]) -> None:
        """Gives the tensors that stand their values back."""
        pairs = self.pairs
        if not all(standing):
            chosen = (list(itertools.compress(each, standing)) for each in (pairs.tensors, pairs.copies))
            pairs = Pairs(*chosen)
        pairs.give_back()

    def reshape(self, standing: Sequence[bool], *, unfreeze: bool) -> None:
        """Gives the tensors their form back."""
        for form, stands in zip(self.forms, standing, strict=True):
            if not stands:
                form.restore(unfreeze=unfreeze)
            elif unfreeze:
                form.unfreeze()

    def changed(self, standing: Sequence[bool]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Tensors that don't stand and may have other values now, and their copies."""
        tensors = zip(standing, self.pairs.copies, self.graph.tensors, self.versions, strict=False)
        return [
            (tensor, copy)
            for stands, copy, tensor, version in tensors
            if not stands and (tensor.is_leaf or version != tensor._version)
        ]


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """One moment."""

    model: Part
    """The model, with optimizers and registered objects."""
    data: Part
    gradients: dict[torch.Tensor, torch.Tensor]
    sources: list[Source]
    states: list[Any]
    modes: list[Mode]
    n_groups: list[int]
    random_state: RandomState

    @property
    def all_copies(self) -> list[torch.Tensor]:
        """All memory that is held."""
        return [*self.model.pairs.copies, *self.data.pairs.copies, *self.gradients.values()]

    def fill(self, changed: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Gives tensors that have their form again the values of their copies, and all tensors their gradients."""
        inferred = [pair for pair in changed if pair[0].is_inference()]
        if inferred:
            changed = [pair for pair in changed if not pair[0].is_inference()]
            with torch.inference_mode():
                Pairs([values(tensor) for tensor, _ in inferred], [own for _, own in inferred]).give_back()
        Pairs([values(tensor) for tensor, _ in changed], [own for _, own in changed]).give_back()
        for tensor in (*self.model.graph.tensors, *self.model.graph.hollow):
            if tensor.is_leaf:
                set_gradient(tensor, self.gradients.get(tensor))

    def load(self) -> list[str]:
        """Gives the sources their states; what went wrong."""
        failures = []
        for source, state in zip(self.sources, self.states, strict=True):
            try:
                source.load(state)
            except Exception as error:
                failures.append(f"{source.name} can't load its state: {type(error).__name__}: {error}")
        return failures


def set_gradient(tensor: torch.Tensor, value: torch.Tensor | None) -> None:
    """Fills the gradient that is there, or makes one.

    A gradient that the probe let go is not kept alive for its address: that would double what gradients cost, and a
    loop that sets gradients to None does not depend on where they are.
    """
    if value is None:
        if tensor.grad is not None:
            tensor.grad = None
        return
    ahead = runs_ahead(tensor.device)
    if tensor.grad is None or kind(values(tensor.grad)) != kind(value):
        tensor.grad = _distributed_as(tensor, value.to(tensor.device, non_blocking=ahead, copy=True))
    else:
        values(tensor.grad).copy_(value, non_blocking=ahead)


def _distributed_as(tensor: torch.Tensor, shard: torch.Tensor) -> torch.Tensor:
    """The shard as a distributed tensor if `tensor` is one: gradients lie as their parameters do."""
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed is None or not isinstance(tensor, distributed.DTensor):
        return shard
    mesh, placements = tensor.device_mesh, tensor.placements
    gradient: torch.Tensor = distributed.DTensor.from_local(
        shard, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )
    return gradient
