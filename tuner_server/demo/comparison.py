"""Runs the demo from outside: a server process, a trainer process for each seed, and what they bring back."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lrpilot.transport.embedded_server import EmbeddedServer

from tuner_server.base.terminal import Terminal
from tuner_server.core.errors import InvalidInputError, TunerError
from tuner_server.demo import report
from tuner_server.demo.contestants import contestants
from tuner_server.demo.messages import Progress, Refused, Result, parser
from tuner_server.demo.plot import plot
from tuner_server.demo.progress import Display, display
from tuner_server.demo.standing import ranked

STOP_TIMEOUT_S = 5.0


class DemoError(TunerError):
    """The trainer process failed."""


def run(out: Path, steps: int, n_seeds: int, *, with_autolrs: bool) -> None:
    """Trains every contestant, shows the comparison, and leaves figures, a plot and the schedules found in `out`.

    Args:
        out: a directory, made if need be; files of an earlier demo are replaced.
        steps: optimizer steps of every run, search included.
        n_seeds: how often everything is run, with other weights, batches and images to judge by each time; at once.
        with_autolrs: whether the published AutoLRS takes part.

    Raises:
        InvalidInputError: the server refuses a job, such as one of too few steps, or `out` can't be written to.
        DemoError: the trainer process failed.
        UnavailableError: the server process did not start.
    """
    console = Terminal()
    started = time.monotonic()
    database = out / "demo.db"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for stale in out.glob("demo.db*"):
            stale.unlink()
    except OSError as error:
        raise InvalidInputError.of("out", f"{out}: {error.strerror}") from error
    console.print(f"starting a tuner server on {database}, and {n_seeds} trainers", soft_wrap=True)
    n_runs = n_seeds * len(contestants(with_autolrs=with_autolrs))
    with (
        contextlib.closing(EmbeddedServer(f"sqlite:///{database.resolve()}")) as server,
        contextlib.ExitStack() as stack,
        display(console, steps, n_runs) as shown,
    ):
        options = ["--autolrs"] if with_autolrs else []
        trainers = [stack.enter_context(_trainer(server.target, out, steps, seed, options)) for seed in range(n_seeds)]
        results = _follow(trainers, shown)
        for seed, trainer in enumerate(trainers):
            if (code := trainer.wait()) != 0:
                log = _log(out, seed)
                lines = log.read_text(errors="replace").strip().splitlines()
                raise DemoError(f"demo: the trainer failed ({' '.join(lines[-1:]) or f'exit code {code}'}); see {log}")
    standings = ranked(results)
    console.print(report.table(standings, steps))
    summary = report.summary(standings, steps, time.monotonic() - started)
    (out / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    plot(standings, out / "comparison.png")
    files = ["summary.json", "comparison.png", *(name for result in results for name in result.artifacts)]
    console.print(f"written to {out}: {', '.join(files)}", soft_wrap=True)


def _log(out: Path, seed: int) -> Path:
    return out / f"trainer-{seed}.log"


@contextlib.contextmanager
def _trainer(server: str, out: Path, steps: int, seed: int, options: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A trainer process; it is gone when the block ends, however that ends."""
    command = [sys.executable, "-m", "tuner_server.demo.trainer", "--server", server, "--out", str(out), *options]
    with _log(out, seed).open("w") as errors:
        process = subprocess.Popen(
            [*command, "--steps", str(steps), "--seed", str(seed)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Ctrl-C comes to us alone, and we end it: else its last words would be a traceback.
            start_new_session=True,
        )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _follow(trainers: Sequence[subprocess.Popen[str]], shown: Display) -> list[Result]:
    """Shows what the trainers say until they have said all. Raises: InvalidInputError: the server refused a job."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for trainer in trainers:
        threading.Thread(target=_pass_on, args=(trainer, lines), daemon=True).start()
    results, talking = [], len(trainers)
    while talking:
        line = lines.get()
        if line is None:
            talking -= 1
            continue
        match parser.validate_json(line):
            case Progress() as progress:
                shown.update(progress)
            case Result() as result:
                shown.finish(result)
                results.append(result)
            case Refused(message=message):
                raise InvalidInputError.of("demo", message)
    return results


def _pass_on(trainer: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Puts what a trainer says into `lines`, and None at its end."""
    assert trainer.stdout is not None
    for line in trainer.stdout:
        lines.put(line)
    lines.put(None)
