"""The tensors and the mutable containers that can be reached from some roots."""

from __future__ import annotations

import copy
from typing import Any

import torch


class Reachable:
    """Tensors, and the dicts and lists that hold them, each once, in the order in which they were found."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self._containers: list[dict[Any, Any] | list[Any]] = []
        # For copy.deepcopy: what is known stands for itself, so that a deep copy of a value shares it.
        self._itself: dict[int, Any] = {}

    def add(self, value: Any) -> None:
        """Follows dicts, lists and tuples."""
        if id(value) in self._itself:
            return
        if isinstance(value, torch.Tensor):
            self._itself[id(value)] = value
            self.tensors.append(value)
        elif isinstance(value, dict | list):
            self._itself[id(value)] = value
            self._containers.append(value)
            for child in value.values() if isinstance(value, dict) else value:
                self.add(child)
        elif isinstance(value, tuple):
            for child in value:
                self.add(child)

    def contents(self) -> list[dict[Any, Any] | list[Any]]:
        """What the containers hold: tensors and containers themselves, deep copies of anything else."""
        memo = self._itself.copy()
        return [_deep_copied(container, memo) for container in self._containers]

    def refill(self, contents: list[dict[Any, Any] | list[Any]]) -> None:
        """Puts contents back into the containers; they stay fit for the next time."""
        memo = self._itself.copy()
        for container, content in zip(self._containers, contents, strict=True):
            fresh = _deep_copied(content, memo)
            container.clear()
            if isinstance(container, dict):
                container.update(fresh)
            else:
                container.extend(fresh)


def _deep_copied(container: dict[Any, Any] | list[Any], memo: dict[int, Any]) -> dict[Any, Any] | list[Any]:
    if isinstance(container, dict):
        return {key: copy.deepcopy(value, memo) for key, value in container.items()}
    return [copy.deepcopy(value, memo) for value in container]
