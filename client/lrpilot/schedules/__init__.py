"""Schedules that have a formula: how an LR moves over a run, by name and parameters."""

from __future__ import annotations

from lrpilot.schedules.shape import Shape

__all__ = ["Shape"]
