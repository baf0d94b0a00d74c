"""In-run rollback: what a probe may change, remembered in memory and put back in place.

What is remembered is all that can be reached from the model, the optimizers and the registered objects: tensors, the
containers and attributes that hold them, plain values, generators of random numbers (`lrpilot.objects.graph`). Of a
tensor its values are kept, its shape and type, and where they lie. Restoring puts the same objects back where they were
and fills them, so that addresses survive (a compiled step is not compiled again, a CUDA graph stays valid), state that
a probe made is gone, and state that it removed is back.

A registered object with a state dict is loaded from it besides, for what it keeps elsewhere.

Of distributed tensors (FSDP2, tensor parallelism) every process copies its own shards, with no communication.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lrpilot.backends.torch.rollback.difference import difference
from lrpilot.backends.torch.rollback.fsdp import reshard, whole_parameters_kept
from lrpilot.backends.torch.rollback.memory import CopyOrder, Pairs, nbytes, paired, values
from lrpilot.backends.torch.rollback.modes import modes_of, set_modes
from lrpilot.backends.torch.rollback.optimizer_states import MadeStates, load_in_place
from lrpilot.backends.torch.rollback.placement import STATE_TENSORS, Demand, choose
from lrpilot.backends.torch.rollback.taken import Part, Source, Taken
from lrpilot.errors import ConfigError
from lrpilot.objects.graph import ObjectGraph
from lrpilot.objects.tensor_form import TensorForm
from lrpilot.rng import RandomState

log = logging.getLogger("lrpilot")


class Snapshot:
    """Rollback state of a run. Make one, and use it for every probe: its memory is used again.

    It holds every parameter, a frozen one too: an encoder that follows another by a moving average is frozen, and still
    changes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        registered: Mapping[str, Any],
        placement: str | os.PathLike[str] = "auto",
    ) -> None:
        """Remembers what to copy; copies nothing yet. Logs how large the snapshot will be, and where it will live.

        Args:
            model: what is trained.
            optimizers: those that train it; parameters that are not the model's are rolled back too.
            registered: further objects to roll back, by name.
            placement: "device", "host", "disk", a directory on the disk, or "auto"; see
                `lrpilot.backends.torch.rollback.placement`.

        Raises:
            ConfigError: there is no such placement, the disk has not enough room, or a registered object can't be put
                back.
        """
        self._model = model
        self._optimizers = tuple(optimizers)
        self._registered = dict(registered)
        self._taken: Taken | None = None
        self._order = CopyOrder()
        for name, each in registered.items():
            if not (_has_state_dict(each) or ObjectGraph.reaches(each)):
                raise ConfigError(
                    f"register: {name!r} can't be put back, since a {type(each).__name__} has neither attributes nor "
                    "items nor state_dict and load_state_dict; register what holds it, or an object that has these"
                )
        self._memory = choose(placement, self._demand())

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that are held; 0 before the first `take`."""
        return sum(map(nbytes, self._taken.all_copies)) if self._taken else 0

    @property
    def expected_nbytes(self) -> int:
        """Bytes that a snapshot of the present would hold once training has begun, without gradients.

        A parameter without optimizer state is taken to get two tensors of it, as Adam's. That is too much for SGD.
        """
        return self._demand().nbytes

    @property
    def roots(self) -> dict[str, Any]:
        """All that is followed, by name."""
        several = len(self._optimizers) > 1
        optimizers = {f"optimizer[{i}]" if several else "optimizer": o for i, o in enumerate(self._optimizers)}
        return {"model": self._model, **optimizers, **self._registered}

    @torch.inference_mode(False)
    @torch.no_grad()
    def take(self, data: Iterable[Any] = ()) -> None:
        """Remembers the present, in place of what was remembered before.

        If memory runs out, what was remembered before is still there.

        Args:
            data: parts of the data that the loop may change, as a sampler's weights. They go back with a probe, and
                stay as they are when committed steps are rolled back: these go on in the data.

        Raises:
            ConfigError: the snapshot lives on disk, and needs more room than there is.
        """
        random_state = RandomState.capture()
        sources = self._sources()
        states = [source.get() for source in sources]
        with _plain_tensors():
            self._remember(random_state, sources, states, data)

    def _remember(
        self, random_state: RandomState, sources: list[Source], states: list[Any], data: Iterable[Any]
    ) -> None:
        before = self._taken
        reshard(self._modules())
        # States are asked for anew each time, so with them there is always something that was not there before.
        unchanged = before is not None and not states and before.model.graph.leads_as_before()
        graph = before.model.graph if before is not None and unchanged else self._graph(states)
        apart = graph.beyond(data)
        holders = [t for t in (*graph.tensors, *graph.hollow) if t.is_leaf and t.grad is not None]
        forms = None
        if before is not None and not (holders or apart.tensors) and before.model.is_of(graph):
            forms, of_model = before.model.forms, before.model.pairs
            of_data = of_gradients = Pairs((), ())
        else:
            gradients = [tensor.grad for tensor in holders if tensor.grad is not None]
            old = before.all_copies if before else ()
            of_model, of_data, of_gradients = paired(self._memory, old, graph.tensors, apart.tensors, gradients)
        # A device copies while the host notes the rest.
        with self._order.on(of_model.devices | of_data.devices | of_gradients.devices):
            for pairs in (of_model, of_data, of_gradients):
                pairs.keep()
        self._taken = Taken(
            model=Part.of(graph, of_model, forms),
            data=Part.of(apart, of_data),
            gradients=dict(zip(holders, of_gradients.copies, strict=True)),
            sources=sources,
            states=states,
            modes=modes_of(self._modules()),
            n_groups=[len(optimizer.param_groups) for optimizer in self._optimizers],
            random_state=random_state,
        )

    @torch.no_grad()
    def restore(self, *, committed: bool = False) -> None:
        """Goes back to what was remembered. May be repeated.

        Learning rates go back too: whoever wants another one sets it afterwards.

        Args:
            committed: whether what is rolled back was to stay. Parameter groups that were added since then, and what is
                trained, stay as they are: the loop that added a group will not add it again.

        Raises:
            RuntimeError: nothing has been taken, or a registered object can't load its state; all others are back.
        """
        if self._taken is None:
            raise RuntimeError("snapshot: restore() before take()")
        added = [o.param_groups[n:] for o, n in zip(self._optimizers, self._taken.n_groups, strict=True)]
        made = MadeStates(self._taken.model.graph.optimizers)
        failures = self._put_back(self._taken, committed=committed)
        made.renew()
        if any(added):
            self._keep(added, committed=committed)
        if failures:
            raise RuntimeError("; ".join(failures))

    @torch.inference_mode(False)
    @torch.no_grad()
    def _put_back(self, taken: Taken, *, committed: bool = False) -> list[str]:
        """Makes the present what it was; what went wrong."""
        reshard(self._modules())
        parts = (taken.model,) if committed else (taken.model, taken.data)
        with _plain_tensors():
            standing = [part.standing() for part in parts]
            with self._order.on(set().union(*(part.pairs.devices for part in parts))):
                for part, stand in zip(parts, standing, strict=True):
                    part.fill(stand)  # a device copies while the host puts the rest back
        for part in parts:
            part.refill()
        with _plain_tensors():
            for part, stand in zip(parts, standing, strict=True):
                part.reshape(stand, unfreeze=not committed)
            changed = [each for part, stand in zip(parts, standing, strict=True) for each in part.changed(stand)]
            with self._order.on({each.device for each, _ in (*changed, *taken.gradients.items())}):
                taken.fill(changed)
        failures = taken.load()
        if taken.sources:
            for part in parts:
                part.refill()  # the same objects, whatever loading has put in their place
        set_modes(taken.modes)
        taken.random_state.restore()
        return failures

    def _keep(self, added: Sequence[Sequence[dict[str, Any]]], *, committed: bool) -> None:
        """Gives groups back that were added to committed steps, for good; says what becomes of others."""
        if not committed:
            log.warning(
                "lrpilot: a parameter group was added in a probe, and went with it: add groups while "
                "`tuner.searching` is false"
            )
            return
        for optimizer, groups in zip(self._optimizers, added, strict=True):
            optimizer.param_groups.extend(groups)
        self.take()

    @contextlib.contextmanager
    def preserved(self, *, but: Iterable[torch.Tensor] = ()) -> Iterator[None]:
        """Puts back at its end what is changed inside of model and registered objects: all but parameters.

        Args:
            but: parameters that are put back, too.
        """
        modules = self._modules()
        modes = modes_of(modules)
        reshard(modules)
        graph = ObjectGraph()
        for root in (self._model, *self._registered.values()):
            graph.add(root)
        with _plain_tensors():
            contents, forms = graph.contents(), [TensorForm(tensor) for tensor in graph.tensors]
            state = [t for t in graph.tensors if t.is_leaf and not isinstance(t, nn.Parameter)]
            kept = [values(t).detach().clone() for t in (*state, *but)]
        try:
            yield
        finally:
            reshard(modules)
            graph.refill(contents)
            set_modes(modes)
            with torch.no_grad(), _plain_tensors():
                for form in forms:
                    form.restore()
                Pairs([values(t) for t in (*state, *but)], kept).give_back()

    def state_dict(self) -> dict[str, Any] | None:
        """What is remembered, for a checkpoint: state dicts of everything, copied; None if nothing is.

        The present makes way for a moment, to a second snapshot beside this one, and is back bit for bit. What is in no
        state dict (non-persistent buffers, plain attributes) is not in it. Of distributed tensors there are the shards
        of this process.
        """
        if self._taken is None:
            return None
        with whole_parameters_kept(self._modules()), self._elsewhere():
            self._put_back(self._taken, committed=True)  # no data: they are in no state dict of ours
            return {
                "roots": {name: copy.deepcopy(each.state_dict()) for name, each in self._named_modules().items()},
                "optimizers": [copy.deepcopy(each.state_dict()) for each in self._all_optimizers()],
                "objects": {name: copy.deepcopy(each.state_dict()) for name, each in self._stateful().items()},
                "random_state": self._taken.random_state.state_dict(),
            }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Remembers what another snapshot remembered. The present stays as it is.

        Raises:
            ConfigError: the other one is of other optimizers, registered objects, or another model.
        """
        if state is None:
            self._taken = None
            return
        modules, stateful, optimizers = self._named_modules(), self._stateful(), self._all_optimizers()
        ours, theirs = {*modules, *stateful} - {""}, {*state["roots"], *state["objects"]} - {""}
        if ours != theirs:
            raise ConfigError(
                f"register: {_listed(ours)}, but the checkpoint was made with {_listed(theirs)}; register the same "
                "objects"
            )
        if len(optimizers) != len(state["optimizers"]):
            raise ConfigError(
                f"optimizer: {len(optimizers)} of them, those inside others included, but the checkpoint was made with "
                f"{len(state['optimizers'])}; resume with the same ones"
            )
        with self._elsewhere():
            for name, module in modules.items():
                try:
                    module.load_state_dict(state["roots"][name])
                except RuntimeError as error:
                    what = f"register: {name!r}" if name else "model"
                    raise ConfigError(f"{what}: {difference(module, state['roots'][name], error)}") from error
            load_in_place(optimizers, state["optimizers"])
            for name, each in stateful.items():
                each.load_state_dict(state["objects"][name])
            RandomState.from_state_dict(state["random_state"]).restore()
            self.take()

    @contextlib.contextmanager
    def _elsewhere(self) -> Iterator[None]:
        """The present makes way inside, to another snapshot, and is back at the end."""
        present = self._another()
        present.take()
        assert present._taken is not None
        try:
            yield
        finally:
            present._put_back(present._taken)

    def _another(self) -> Snapshot:
        """A snapshot of the same objects that holds nothing yet."""
        another = copy.copy(self)
        another._taken = None
        another._memory = self._memory.another()
        return another

    def _named_modules(self) -> dict[str, nn.Module]:
        """The model, without a name, and registered modules."""
        registered = {name: each for name, each in self._registered.items() if isinstance(each, nn.Module)}
        return {"": self._model, **registered}

    def _module_roots(self) -> list[nn.Module]:
        return [self._model, *(each for each in self._registered.values() if isinstance(each, nn.Module))]

    def _modules(self) -> list[nn.Module]:
        return list(dict.fromkeys(module for root in self._module_roots() for module in root.modules()))

    def _stateful(self) -> dict[str, Any]:
        """Registered objects that are loaded from their state dicts, by name."""
        return {name: each for name, each in self._registered.items() if _has_state_dict(each)}

    def _all_optimizers(self) -> list[Optimizer]:
        """All optimizers, those inside of others too, in an order that does not change."""
        return self._graph([]).optimizers

    def _sources(self) -> list[Source]:
        """Where state is that has to be asked for."""
        extra = [module for module in self._modules() if _has_extra_state(module)]
        return [
            *(Source(type(m).__name__, m.get_extra_state, m.set_extra_state) for m in extra),
            *(Source(name, each.state_dict, each.load_state_dict) for name, each in self._stateful().items()),
        ]

    def _graph(self, states: list[Any]) -> ObjectGraph:
        """All there is, and `states`."""
        reshard(self._modules())
        graph = ObjectGraph()
        for root in self._module_roots():
            graph.add((*root.parameters(), *root.buffers()))
        for root in (*self.roots.values(), states):
            graph.add(root)
        return graph

    @torch.no_grad()
    def _demand(self) -> Demand:
        states = [each.state_dict() for each in self._stateful().values()]
        with _plain_tensors():
            return self._demand_beside(states)

    def _demand_beside(self, states: list[Any]) -> Demand:
        copies: collections.Counter[torch.device] = collections.Counter()
        growth: collections.Counter[torch.device] = collections.Counter()
        for tensor in map(values, self._graph(states).tensors):
            copies[tensor.device] += nbytes(tensor)
        for optimizer in self._optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.requires_grad):
                if is_lazy(parameter):
                    continue
                tensor = values(parameter)
                if parameter not in optimizer.state:
                    copies[tensor.device] += STATE_TENSORS * nbytes(tensor)
                    growth[tensor.device] += STATE_TENSORS * nbytes(tensor)
                if parameter.grad is None:
                    growth[tensor.device] += nbytes(tensor)
        return Demand(copies, growth)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _plain_tensors() -> Any:
    """What is done to tensors inside is not changed by their classes."""
    return torch._C.DisableTorchFunctionSubclass()


def _has_state_dict(each: Any) -> bool:
    """Whether an object, a module apart, has a state of its own making."""
    if isinstance(each, nn.Module | type):
        return False
    return callable(getattr(each, "state_dict", None)) and callable(getattr(each, "load_state_dict", None))


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state
