"""Searches at once through Optuna's gRPC storage proxy, as many as through our server.

    clients: study.ask, study.tell ── gRPC ──▶ run_grpc_proxy_server ──▶ SQLite

Every study is a search for an LR: ask, tell, and so on for `TRIALS` trials, then the next study, in a closed loop. What
is timed is what a search does between two probes, tell and ask. Not comparable: Optuna's server stores, and the
sampler runs in the client, so the processor time of both sides is given beside latency; a trial is one number there and
the losses of a probe here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import random
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import optuna
from hdrh.histogram import HdrHistogram
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.storages import GrpcStorageProxy, get_storage, run_grpc_proxy_server

from benchmarks.load.latencies import histogram, merged, record
from benchmarks.load.processes import usage
from benchmarks.ports import free_port

TRIALS = 10
"""The trials of a study: the candidates of a search."""
STARTUP_TRIALS = 3
"""Random ones; both samplers' default of 10 would leave them nothing to do."""
BEST_LOG_LR = -3.0
READY_TIMEOUT_S = 60.0
SAMPLERS = ("TPE", "GP")
DISTRIBUTIONS: dict[str, optuna.distributions.BaseDistribution] = {
    "lr": optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)
}


@dataclasses.dataclass(frozen=True, slots=True)
class Contest:
    """What Optuna did in one window."""

    sampler: str
    n_studies: int
    seed: int
    latencies: bytes
    """The latencies of tell and ask, encoded, in microseconds."""
    errors: int
    elapsed_s: float
    server_cpu_s: float
    clients_cpu_s: float

    @property
    def n_suggestions(self) -> int:
        return int(merged([self.latencies]).get_total_count())


def _hush() -> None:
    """Optuna says a line for every study, and that the proxy and the GP sampler are experimental."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def _serve(url: str, port: int) -> None:
    _hush()
    run_grpc_proxy_server(get_storage(url), host="127.0.0.1", port=port)


def _sampler(name: str, seed: int) -> BaseSampler:
    if name == "TPE":
        return TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed)
    return GPSampler(n_startup_trials=STARTUP_TRIALS, seed=seed)


class _Searcher(threading.Thread):
    """One study after another, with a connection of its own."""

    def __init__(self, port: int, sampler: str, seed: int, end: float) -> None:
        super().__init__()
        self._port, self._sampler, self._seed, self._end = port, sampler, seed, end
        self.latencies: HdrHistogram = histogram()
        self.errors = 0

    def run(self) -> None:
        storage = GrpcStorageProxy(host="127.0.0.1", port=self._port)
        generator = random.Random(self._seed)
        while time.perf_counter() < self._end:
            try:
                self._study(storage, generator)
            except Exception:  # of whatever layer: what counts is that the study can't go on
                self.errors += 1
                logging.getLogger(__name__).debug("study failed", exc_info=True)
        storage.close()

    def _study(self, storage: GrpcStorageProxy, generator: random.Random) -> None:
        study = optuna.create_study(storage=storage, sampler=_sampler(self._sampler, generator.getrandbits(31)))
        trial = study.ask(DISTRIBUTIONS)
        for _ in range(TRIALS):
            loss = (trial.params["lr"] - BEST_LOG_LR) ** 2 + generator.gauss(0, 0.02)
            start = time.perf_counter()
            if start >= self._end:
                return
            study.tell(trial, loss)
            trial = study.ask(DISTRIBUTIONS)
            record(self.latencies, time.perf_counter() - start)


def _warm_up(port: int, sampler: str) -> None:
    """Imports, and the first fit."""
    _hush()
    storage = GrpcStorageProxy(host="127.0.0.1", port=port)
    storage.wait_server_ready(timeout=READY_TIMEOUT_S)
    study = optuna.create_study(storage=storage, sampler=_sampler(sampler, 0))
    for _ in range(STARTUP_TRIALS + 2):
        study.tell(study.ask(DISTRIBUTIONS), 0.0)
    storage.close()


def _search(port: int, sampler: str, seeds: list[int], seconds: float) -> tuple[bytes, int, float, float]:
    """Runs studies in threads: encoded latencies, errors, seconds, processor seconds."""
    start, cpu = time.perf_counter(), time.process_time()
    searchers = [_Searcher(port, sampler, seed, start + seconds) for seed in seeds]
    for searcher in searchers:
        searcher.start()
    for searcher in searchers:
        searcher.join()
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    encoded = merged(searcher.latencies.encode() for searcher in searchers).encode()
    return encoded, sum(searcher.errors for searcher in searchers), elapsed, cpu


def compete(directory: Path, sampler: str, n_studies: int, seed: int, seconds: float, n_processes: int) -> Contest:
    """Runs some studies at once, on an empty SQLite file."""
    context = multiprocessing.get_context("spawn")
    generator = random.Random(seed)
    seeds = [generator.getrandbits(31) for _ in range(n_studies)]
    shares = [seeds[i::n_processes] for i in range(min(n_processes, n_studies))]
    url = f"sqlite:///{directory}/optuna-{sampler}-{n_studies}-{seed}.db"
    with _server(url) as (port, pid), contextlib.ExitStack() as stack:
        # An executor of one process each: that a process warms up itself.
        processes = [stack.enter_context(ProcessPoolExecutor(1, context)) for _ in shares]
        for warmed_up in [process.submit(_warm_up, port, sampler) for process in processes]:
            warmed_up.result()
        before = usage(pid)
        pairs = zip(processes, shares, strict=True)
        running = [process.submit(_search, port, sampler, share, seconds) for process, share in pairs]
        results = [search.result() for search in running]
        server_cpu_s = usage(pid).cpu_s - before.cpu_s
    encoded, errors, elapsed, cpu = zip(*results, strict=True)
    return Contest(
        sampler=sampler,
        n_studies=n_studies,
        seed=seed,
        latencies=merged(encoded).encode(),
        errors=sum(errors),
        elapsed_s=max(elapsed),
        server_cpu_s=server_cpu_s,
        clients_cpu_s=sum(cpu),
    )


@contextlib.contextmanager
def _server(url: str) -> Iterator[tuple[int, int]]:
    """A proxy server process: its port and process id."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(url, port), daemon=True)
    process.start()
    assert process.pid is not None
    try:
        yield port, process.pid
    finally:
        process.kill()
        process.join()
