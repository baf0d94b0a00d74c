"""From measurements to rows: percentiles of all seeds' values together, and how far single seeds stray."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.load.fleet import Arrival
from benchmarks.load.latencies import PERCENTILES, merged, percentile_ms
from benchmarks.load.measure import SQLITE, Measurement
from benchmarks.load.optuna_proxy import Contest
from benchmarks.load.tally import together
from benchmarks.load.workload import Kind

BUDGET_MS = 50.0
"""p99 of reports without a search, of 64 live jobs on SQLite."""
SATURATED = 0.95
"""A server that answers less than this part of what is due falls behind, and latency grows for as long as one looks."""

Row = dict[str, Any]


def name(percentile: float) -> str:
    """A percentile as a key: p50, p99, p99.9."""
    return f"p{percentile:g}"


def latency(encoded: Sequence[bytes]) -> Row:
    """Percentiles in ms of several histograms together, with the range over the single ones."""
    whole = merged(encoded)
    row: Row = {"count": int(whole.get_total_count())}
    for percentile in PERCENTILES:
        single = [percentile_ms(merged([part]), percentile) for part in encoded]
        known = [value for value in single if value is not None]
        row[name(percentile)] = percentile_ms(whole, percentile)
        row[f"{name(percentile)}_range"] = [min(known), max(known)] if known else None
    row["hdr_us"] = base64.b64encode(whole.encode()).decode()
    return row


def spread(samples: Iterable[float]) -> Row:
    """Median and range."""
    values = list(samples)
    return {"median": statistics.median(values), "range": [min(values), max(values)]}


def offered_per_s(measurement: Measurement) -> float:
    """Reports that were due in the window, a second; in a burst, those that were made."""
    tally, seconds = measurement.tally, measurement.window.seconds
    if measurement.window.arrival is Arrival.BURST:
        return tally.n_reports / tally.elapsed_s
    return (tally.n_reports + tally.unsent) / seconds


def summarise(measurements: Sequence[Measurement]) -> list[Row]:
    """A row for each database, number of jobs and window."""
    groups: dict[tuple[Any, ...], list[Measurement]] = {}
    for one in measurements:
        groups.setdefault((one.database, one.n_jobs, one.window), []).append(one)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Measurement]) -> Row:
    first, whole = group[0], together([one.tally for one in group])
    done = spread(one.tally.n_reports / one.tally.elapsed_s for one in group)
    offered = spread(map(offered_per_s, group))

    def a_report(seconds: Iterable[float]) -> Row:
        return spread(1e3 * s / max(one.tally.n_reports, 1) for s, one in zip(seconds, group, strict=True))

    return {
        "database": first.database,
        "jobs": first.n_jobs,
        "arrival": first.window.arrival.value,
        "step_ms": first.window.step_s * 1e3 if first.window.arrival is Arrival.SPREAD else None,
        "seeds": [one.seed for one in group],
        "offered_per_s": offered,
        "done_per_s": done,
        "saturated": first.window.arrival is Arrival.BURST or done["median"] < SATURATED * offered["median"],
        "latency_ms": {kind.value: latency([one.tally.latencies[kind] for one in group]) for kind in Kind},
        "round_trip_ms": {kind.value: latency([one.tally.round_trips[kind] for one in group]) for kind in Kind},
        "server_cpu_ms": a_report(one.server_cpu_s for one in group),
        "database_cpu_ms": a_report(one.database_cpu_s for one in group),
        "clients_cpu_ms": a_report(one.tally.cpu_s for one in group),
        "rss_per_job_kib": spread(one.rss_per_job_bytes / 1024 for one in group),
        "errors": whole.errors,
        "too_slow": whole.too_slow,
    }


def compared(contests: Sequence[Contest], measurements: Sequence[Measurement]) -> list[Row]:
    """A row for each sampler and number of studies, with ratios to LRPilot's burst on SQLite in the same seed."""
    ours = {
        (one.n_jobs, one.seed): one
        for one in measurements
        if one.database == SQLITE and one.window.arrival is Arrival.BURST
    }
    groups: dict[tuple[str, int], list[Contest]] = {}
    for contest in contests:
        groups.setdefault((contest.sampler, contest.n_studies), []).append(contest)
    rows = []
    for (sampler, n_studies), group in groups.items():
        pairs = [(one, ours[n_studies, one.seed]) for one in group]
        ratios = [_ratios(one, our) for one, our in pairs if one.n_suggestions and our.tally.count(Kind.SEARCH)]
        rows.append(
            {
                "sampler": sampler,
                "studies": n_studies,
                "seeds": [one.seed for one in group],
                "done_per_s": spread(one.n_suggestions / one.elapsed_s for one in group),
                "latency_ms": latency([one.latencies for one in group]),
                "server_cpu_ms": spread(1e3 * one.server_cpu_s / max(one.n_suggestions, 1) for one in group),
                "clients_cpu_ms": spread(1e3 * one.clients_cpu_s / max(one.n_suggestions, 1) for one in group),
                "errors": sum(one.errors for one in group),
                "ratios": {key: spread(ratio[key] for ratio in ratios) for key in ratios[0]} if ratios else {},
            }
        )
    return rows


def _ratios(contest: Contest, ours: Measurement) -> dict[str, float]:
    """Optuna over LRPilot: above 1, LRPilot is faster or cheaper; for `done_per_s`, the other way round."""
    theirs, searches = merged([contest.latencies]), merged([ours.tally.latencies[Kind.SEARCH]])
    their_cpu = (contest.server_cpu_s + contest.clients_cpu_s) / contest.n_suggestions
    our_cpu = (ours.server_cpu_s + ours.tally.cpu_s) / ours.tally.n_reports
    their_rate = contest.n_suggestions / contest.elapsed_s
    return {
        **{name(p): theirs.get_value_at_percentile(p) / searches.get_value_at_percentile(p) for p in (50.0, 99.0)},
        "cpu": their_cpu / our_cpu,
        "done_per_s": their_rate / (ours.tally.n_reports / ours.tally.elapsed_s),
    }
