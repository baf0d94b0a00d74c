"""The demo's trainer process: `python -m tuner_server.demo.trainer` runs every contestant in turn.

Progress and results go to standard output as `tuner_server.demo.messages`. If nobody reads them any more the next
line fails, and the process with it: it does not outlive the demo.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import lrpilot
import torch
from lrpilot.wire.profile import Profile, Shape
from torch import Tensor
from torch.nn import functional

from tuner_server.demo import network
from tuner_server.demo.contestants import BASE_LR, LR_BOUNDS, Contestant, Decayed, Tuned, contestants
from tuner_server.demo.data import Batches, Split, load
from tuner_server.demo.messages import Progress, Refused, Result

PROGRESS_S = 0.25


class DecayedRun:
    """Follows a line from a guessed LR to zero, with the interface of a `Tuner`."""

    job_id = None
    stage = 0
    phase = "train"
    search_steps = 0

    def __init__(self, optimizer: torch.optim.Optimizer, lr: float, n_steps: int) -> None:
        self._optimizer = optimizer
        self._n_steps = n_steps
        self._profile = Profile(Shape.LINEAR, lr, 0.0, n_steps)
        self.committed_step = 0
        self._set_lr()

    def batches(self, loader: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Draws across epochs until the budget is spent."""
        while True:
            for batch in loader:
                if self.committed_step == self._n_steps:
                    return
                yield batch

    def step(self, loss: Tensor) -> None:
        """Counts a step, and sets the LR of the next."""
        self.committed_step += 1
        self._set_lr()

    def close(self) -> None:
        """Does nothing: there is nothing to release."""

    def _set_lr(self) -> None:
        self.lr = self._profile.lr(self.committed_step)
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr


LrSetter = lrpilot.Tuner | DecayedRun
"""What sets the LRs of a run."""


class Run:
    """A contestant's run: its network, its data, and what it says on the way."""

    def __init__(
        self, name: str, contestant: Contestant, server: str, out: Path, n_steps: int, seed: int, data: Split
    ) -> None:
        """Prepares a run of `n_steps` optimizer steps, search included."""
        self._name, self._contestant, self._server, self._out = name, contestant, server, out
        self._n_steps, self._seed, self._data = n_steps, seed, data
        self._network = network.build(seed)
        self._optimizer = torch.optim.SGD(self._network.parameters(), lr=BASE_LR, momentum=network.MOMENTUM, fused=True)
        self._tuning_loss: float | None = None
        self._last_progress = 0.0

    def run(self) -> Result:
        """Trains, and judges the network. Raises: RefusedError."""
        contestant = self._contestant
        wall, cpu = time.monotonic(), time.process_time()
        with contextlib.closing(self._lr_setter(contestant)) as lr_setter:
            self._train(lr_setter)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        loss, accuracy = network.evaluate(self._network, self._data.validation)
        artifacts = []
        if isinstance(lr_setter, lrpilot.Tuner) and isinstance(contestant, Tuned):
            artifact = contestant.artifact if self._seed == 0 else f"{contestant.artifact}-seed-{self._seed}"
            artifacts = [f"{artifact}.json", f"{artifact}.png"]
            lr_setter.schedule.save(self._out / artifacts[0])
            lr_setter.schedule.plot(self._out / artifacts[1])
        return Result(
            contestant=self._name,
            seed=self._seed,
            committed_steps=lr_setter.committed_step,
            search_steps=lr_setter.search_steps,
            validation_loss=loss,
            validation_accuracy=accuracy,
            wall_time_s=wall,
            cpu_time_s=cpu,
            job_id=lr_setter.job_id,
            artifacts=artifacts,
        )

    def _lr_setter(self, contestant: Contestant) -> LrSetter:
        if isinstance(contestant, Decayed):
            return DecayedRun(self._optimizer, contestant.lr, self._n_steps)
        return self._tuner(contestant)

    def _tuner(self, contestant: Tuned) -> lrpilot.Tuner:
        return lrpilot.Tuner(
            self._network,
            self._optimizer,
            server=self._server,
            total_steps=self._n_steps,
            lr_bounds=LR_BOUNDS,
            policy=contestant.policy,
            validate=self._validate,
            name=f"demo {self._name}, seed {self._seed}",
            seed=self._seed,
        )

    def _validate(self) -> float:
        self._tuning_loss, _ = network.evaluate(self._network, self._data.tuning)
        return self._tuning_loss

    def _train(self, lr_setter: LrSetter) -> None:
        for images, labels in lr_setter.batches(Batches(self._data.train, self._seed)):
            loss = functional.cross_entropy(self._network(images), labels)
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            self._optimizer.step()
            lr_setter.step(loss)
            self._tell(lr_setter, loss)

    def _tell(self, lr_setter: LrSetter, loss: Tensor) -> None:
        """Says where the run is, now and then."""
        now = time.monotonic()
        if now - self._last_progress < PROGRESS_S:
            return
        self._last_progress = now
        progress = Progress(
            contestant=self._name,
            seed=self._seed,
            stage=lr_setter.stage,
            phase=lr_setter.phase,
            lr=lr_setter.lr,
            loss=loss.item(),
            tuning_loss=self._tuning_loss,
            steps_left=self._n_steps - lr_setter.committed_step - lr_setter.search_steps,
        )
        print(progress.model_dump_json(), flush=True)


def main() -> None:
    """Runs the contestants one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tuner_server.demo.trainer", description=__doc__)
    parser.add_argument("--server", required=True, help="HOST:PORT")
    parser.add_argument("--out", type=Path, required=True, help="where schedules go")
    parser.add_argument("--steps", type=int, required=True, help="optimizer steps of a run, search included")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--autolrs", action="store_true", help="with the published AutoLRS")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    # The second of two cores made a step of this size a third faster and cost twice the processor time; with one
    # thread the same seed gives the same bits, however many cores there are.
    torch.set_num_threads(1)
    data = load(arguments.seed)
    for name, contestant in contestants(with_autolrs=arguments.autolrs).items():
        try:
            run = Run(name, contestant, arguments.server, arguments.out, arguments.steps, arguments.seed, data)
            result = run.run()
        except lrpilot.RefusedError as error:
            print(Refused(message=str(error)).model_dump_json(), flush=True)
            return
        print(result.model_dump_json(), flush=True)


if __name__ == "__main__":
    main()
