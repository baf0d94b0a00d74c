"""Loading the states of optimizers into what they have, so that a snapshot that knows it finds it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from lrpilot.errors import ConfigError


def load_in_place(optimizers: Sequence[Optimizer], states: Sequence[dict[str, Any]]) -> None:
    """Loads optimizers' states into the containers that they have and share: snapshots know them by these.

    Groups beyond those of the states were added later, and are left out.

    Raises:
        ConfigError: a state has more groups than its optimizer.
    """
    containers = [(optimizer.state, optimizer.param_groups) for optimizer in optimizers]
    for state, (_, groups) in zip(states, containers, strict=True):
        saved = len(state.get("param_groups", groups))
        if saved > len(groups):
            raise ConfigError(
                f"state: the checkpoint's optimizer has {saved} parameter groups, this one {len(groups)}; add those "
                "that were added in mid-run before loading"
            )
        del groups[saved:]
    # Those inside of others first: the state that a wrapper has of them is whole (TRAC's has tables by parameter).
    for optimizer, state, (table, groups) in reversed([*zip(optimizers, states, containers, strict=True)]):
        optimizer.load_state_dict(state)
        loaded, loaded_groups = dict(optimizer.state), list(optimizer.param_groups)
        table.clear()
        table.update(loaded)
        for group, loaded_group in zip(groups, loaded_groups, strict=True):
            if group is not loaded_group:
                group.clear()
                group.update(loaded_group)
        for each, (own_table, own_groups) in zip(optimizers, containers, strict=True):
            own = {"state": own_table, "param_groups": own_groups}
            vars(each).update({name: own[name] for name in own if name in vars(each)})  # else a property: another's
