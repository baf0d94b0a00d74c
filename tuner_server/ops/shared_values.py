"""Metrics of several processes in memory that they share, which no file keeps and no cleaning reaches.

Every worker has a piece of memory of its own; its supervisor holds all of them, so that what a worker counted outlives
it, and sums them up when somebody asks.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from prometheus_client import values
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

SIZE = 2**20
"""Bytes of one process's metrics, of which only those that are used take memory: a hundred for a sample."""
_HEADER = struct.Struct("<Q")
"""Bytes that are used."""
_RECORD = struct.Struct("<Qdd")
"""The length of a key, and behind it its value and the time of a gauge's; a multiple of 8 bytes, as each record is."""
_GAUGE, _HISTOGRAM = "gauge", "histogram"


class _Key(NamedTuple):
    """A sample that a process counts."""

    kind: str
    metric: str
    sample: str
    label_names: Sequence[str]
    label_values: Sequence[str]
    documentation: str
    mode: str
    """How a gauge's values are put together: livesum, livemin or livemostrecent."""


def new_memory() -> int:
    """A descriptor of memory for one process's metrics. Raises: OSError: there is none."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("lrpilot-metrics")
    else:
        with tempfile.TemporaryFile() as file:  # which has no name
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, SIZE)
    return descriptor


class SharedValues:
    """The values that one process counts in such memory. One process writes, others may read."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SIZE)
        self._lock = threading.Lock()
        self._places = dict(self._records())

    def place(self, key: str) -> int | None:
        """The place of a key's value, which is made if need be; None: no memory is left."""
        with self._lock:
            if key in self._places:
                return self._places[key]
            data = key.encode()
            data += b" " * (-len(data) % 8)
            used = self._used
            end = used + _RECORD.size + len(data)
            if end > SIZE:
                return None
            self._memory[used + _RECORD.size : end] = data
            _RECORD.pack_into(self._memory, used, len(data), 0.0, 0.0)
            # Last: whoever reads meanwhile finds whole records.
            _HEADER.pack_into(self._memory, 0, end)
            self._places[key] = used
            return used

    def write(self, place: int, value: float, at: float) -> None:
        """Writes a value and, for a gauge, when that was."""
        struct.pack_into("<d", self._memory, place + 16, at)
        struct.pack_into("<d", self._memory, place + 8, value)

    def read(self, place: int) -> tuple[float, float]:
        """A value and its time."""
        _, value, at = _RECORD.unpack_from(self._memory, place)
        return value, at

    def samples(self) -> Iterator[tuple[_Key, float, float]]:
        """All samples with their values and times."""
        for key, place in self._records():
            yield _Key(*json.loads(key)), *self.read(place)

    @property
    def _used(self) -> int:
        (used,) = _HEADER.unpack_from(self._memory, 0)
        return used or _HEADER.size

    def _records(self) -> Iterator[tuple[str, int]]:
        place, end = _HEADER.size, self._used
        while place < end:
            length, _, _ = _RECORD.unpack_from(self._memory, place)
            begin = place + _RECORD.size
            yield self._memory[begin : begin + length].decode().rstrip(" "), place
            place = begin + length


def count_in(shared: SharedValues) -> None:
    """Has all metrics that this process makes from now on keep their values there."""

    class SharedValue:
        """A value as `prometheus_client` uses it."""

        _multiprocess = True

        def __init__(
            self,
            typ: str,
            metric_name: str,
            name: str,
            labelnames: Sequence[str],
            labelvalues: Sequence[str],
            help_text: str,
            multiprocess_mode: str = "",
            **_others: Any,
        ) -> None:
            key = _Key(typ, metric_name, name, labelnames, labelvalues, help_text, multiprocess_mode)
            self._place = shared.place(json.dumps(key))
            self._lock = threading.Lock()
            # What took a worker's place goes on counting; what the former one said about its present is over.
            self._value = 0.0 if self._place is None or typ == _GAUGE else shared.read(self._place)[0]
            self._write(0.0)

        def inc(self, amount: float) -> None:
            with self._lock:
                self._value += amount
                self._write(time.time())

        def set(self, value: float, timestamp: float | None = None) -> None:
            with self._lock:
                self._value = value
                self._write(timestamp or time.time())

        def get(self) -> float:
            return self._value

        def set_exemplar(self, _exemplar: object) -> None:
            """There are none."""

        def get_exemplar(self) -> None:
            """There are none."""

        def _write(self, at: float) -> None:
            if self._place is not None:
                shared.write(self._place, self._value, at)

    values.ValueClass = SharedValue


class SumOverProcesses(Collector):
    """The metrics of several processes put together."""

    def __init__(self, processes: Sequence[SharedValues], runs: Callable[[int], bool]) -> None:
        """`runs` says whether a process, by its place in `processes`, is there to have a present."""
        self._processes, self._runs = processes, runs

    def collect(self) -> Iterator[Metric]:
        """All metrics: counters and histograms as sums, gauges of those that run as their mode has it."""
        found: dict[_Key, list[tuple[float, float]]] = defaultdict(list)
        for number, shared in enumerate(self._processes):
            for key, value, at in shared.samples():
                if key.kind != _GAUGE or (at and self._runs(number)):
                    hashable = key._replace(label_names=tuple(key.label_names), label_values=tuple(key.label_values))
                    found[hashable].append((value, at))
        metrics: dict[str, Metric] = {}
        buckets: dict[tuple[str, tuple[tuple[str, str], ...]], dict[float, float]] = defaultdict(dict)
        for key, each in found.items():
            metric = metrics.setdefault(key.metric, Metric(key.metric, key.documentation, key.kind))
            labels = dict(zip(key.label_names, key.label_values, strict=True))
            value = _together(key, each)
            if key.kind == _HISTOGRAM and "le" in labels:
                end = float(labels.pop("le"))
                buckets[key.metric, tuple(labels.items())][end] = value
            else:
                metric.add_sample(key.sample, labels, value)
        for (name, series), counts in buckets.items():
            _add_buckets(metrics[name], dict(series), counts)
        yield from metrics.values()


def _together(key: _Key, each: Sequence[tuple[float, float]]) -> float:
    """One number for what several processes say."""
    if key.mode == "livemin":
        return min(value for value, _ in each)
    if key.mode == "livemostrecent":
        return max(each, key=lambda said: said[1])[0]
    return math.fsum(value for value, _ in each)


def _add_buckets(metric: Metric, labels: dict[str, str], counts: dict[float, float]) -> None:
    """Adds the classes of a histogram, each of which includes those below it."""
    total = 0.0
    for end in sorted(counts):
        total += counts[end]
        metric.add_sample(f"{metric.name}_bucket", labels | {"le": floatToGoString(end)}, total)  # type: ignore[no-untyped-call]  # the library's
    metric.add_sample(f"{metric.name}_count", labels, total)
