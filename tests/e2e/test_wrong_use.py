"""Wrong use is noticed at once, with a sentence that says what to change, and sound use is not."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lrpilot.errors import ConfigError
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from torch import nn

from tests.support.training.scripted_directives import probe, training


class Loop:
    """A model, an optimizer and a tuner that asks for two probes of 4 steps and for 12 committed ones."""

    def __init__(self, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        self.optimizer = optimizer(self.model.parameters(), lr=0.01)  # type: ignore[call-arg]  # each has one
        script = [probe(0.1, 4, first=True), probe(0.2, 4), training(0.05, 12, restore=True)]
        self.tuner = Tuner(self.model, self.optimizer, transport=ScriptedTransport(script), total_steps=20, **options)
        self.data = list(torch.randn(50, 8, 4))

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.model(batch).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return loss

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def batches(self, most: int = 200) -> Iterator[torch.Tensor]:
        for i, batch in enumerate(self.tuner.batches(self.data)):
            assert i < most, "the loop does not end"
            yield batch


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def the_warning(caplog: pytest.LogCaptureFixture) -> str:
    (sentence,) = warnings_of(caplog)
    return sentence


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_a_sound_loop_is_not_warned(optimizer: type[torch.optim.Optimizer], caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(optimizer)
    for batch in loop.batches():
        loss = loop.loss(batch)
        loop.update()
        loop.tuner.step(loss)
    assert loop.tuner.committed_step == 12
    assert not warnings_of(caplog)


def test_a_step_that_is_forgotten_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    for i, batch in enumerate(loop.batches()):
        loop.loss(batch)
        loop.update()
        if i == 3:
            break
    assert "optimizer.step() was called 3 times with no tuner.step(loss) in between" in the_warning(caplog)


def test_a_step_that_is_forgotten_is_noticed_where_the_loop_draws_its_own_batches(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop()
    for batch in loop.data[:5]:
        loop.loss(batch)
        loop.update()
    assert "with no tuner.step(loss) in between" in the_warning(caplog)


def test_a_step_twice_an_update_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    n_updates = 0
    for batch in loop.batches():
        loss = loop.loss(batch)
        loop.update()
        n_updates += 1
        loop.tuner.step(loss)
        loop.tuner.step(loss)
    assert n_updates == 20
    assert loop.tuner.committed_step == 12
    assert "was called with no optimizer.step() since the last time" in warnings_of(caplog)[0]


def test_a_step_for_every_micro_batch_counts_once_an_update(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    n_updates = 0
    for i, batch in enumerate(loop.batches()):
        loss = loop.loss(batch)
        if i % 4 == 3:
            loop.update()
            n_updates += 1
        loop.tuner.step(loss)
    assert n_updates == 17  # nothing was known of the three micro-batches before the first update
    assert any("not for every micro-batch" in sentence for sentence in warnings_of(caplog))


def test_a_step_before_the_update_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    for batch in loop.batches():
        loss = loop.loss(batch)
        loop.tuner.step(loss)
        loop.update()
    assert "tuner.step(loss) came before the first optimizer.step(): call it after it" in the_warning(caplog)


def test_a_step_once_in_several_updates_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    for i, batch in enumerate(loop.batches()):
        loss = loop.loss(batch)
        loop.update()
        if i % 2:
            loop.tuner.step(loss)
    assert "was called 2 times with no tuner.step(loss) in between" in warnings_of(caplog)[0]


def test_updates_that_are_left_out_when_the_loss_is_not_finite_end_their_probe(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop()
    n_batches = 0
    for batch in loop.batches():
        loss = loop.loss(batch)
        if loop.tuner.phase == "probe" and loop.tuner.search_steps % 4 == 2:
            loss = loss * torch.nan
        else:
            loop.optimizer.step()
        loop.optimizer.zero_grad()
        loop.tuner.step(loss)
        n_batches += 1
    assert loop.tuner.finished
    assert n_batches == 20
    assert not any("micro-batch" in sentence for sentence in warnings_of(caplog))


def test_a_probe_whose_steps_are_left_out_when_the_loss_is_not_finite_comes_to_an_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop()
    for batch in loop.batches(most=3000):
        if loop.tuner.phase == "probe":
            continue
        loss = loop.loss(batch)
        loop.update()
        loop.tuner.step(loss)
    assert loop.tuner.finished
    assert (loop.tuner.committed_step, loop.tuner.search_steps) == (18, 2)
    assert "1000 batches were drawn with no tuner.step(loss)" in warnings_of(caplog)[0]


def test_steps_and_batches_after_the_end_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    for _ in range(3):
        for batch in loop.batches():
            loss = loop.loss(batch)
            loop.update()
            loop.tuner.step(loss)
    loop.tuner.step(1.0)
    assert "as the budget of 20 steps is spent: there are no more batches" in the_warning(caplog)


def test_a_step_after_an_early_close_is_said_to_be_that(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    for batch in itertools.islice(loop.batches(), 5):
        loss = loop.loss(batch)
        loop.update()
        loop.tuner.step(loss)
    loop.tuner.close()
    loop.tuner.step(1.0)
    assert "has ended with close(), before the budget of 20 steps is spent: step() does nothing" in the_warning(caplog)


def test_two_tuners_on_one_optimizer_are_refused_until_the_first_is_closed() -> None:
    loop = Loop()
    with pytest.raises(ConfigError, match="an open tuner tunes it already"):
        Tuner(loop.model, loop.optimizer, transport=ScriptedTransport([training(0.1, 4)]), total_steps=4)
    loop.tuner.close()
    Tuner(loop.model, loop.optimizer, transport=ScriptedTransport([training(0.1, 4)]), total_steps=4).close()


def test_a_tuner_that_nobody_has_any_more_stands_in_no_one_s_way() -> None:
    loop = Loop()
    model, optimizer = loop.model, loop.optimizer
    del loop
    gc.collect()
    Tuner(model, optimizer, transport=ScriptedTransport([training(0.1, 4)]), total_steps=4).close()


def test_arguments_that_are_swapped_or_something_else_are_refused() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    wrong: list[tuple[Any, Any, str]] = [
        (optimizer, model, "the order is Tuner"),
        (model, model, "the order is Tuner"),
        (lambda x: x, optimizer, "model: a function is none"),
        (model, scheduler, "optimizer: a StepLR is a scheduler; give its optimizer"),
        (model, [optimizer, scheduler], "optimizer: a StepLR is a scheduler; give its optimizer"),
        (model, model.parameters(), "optimizer: a Parameter is none"),
        (model, [], "a list without any"),
        (model, None, "optimizer: a NoneType is none"),
    ]
    for first, second, sentence in wrong:
        with pytest.raises(ConfigError, match=sentence):
            Tuner(first, second, transport=ScriptedTransport([]), total_steps=4)


class Critics(nn.Module):
    """Two networks with an optimizer each; the first is stepped more often."""

    def __init__(self) -> None:
        super().__init__()
        self.critic, self.generator = nn.Linear(4, 1), nn.Linear(4, 1)


def test_an_optimizer_that_is_stepped_more_often_than_another_is_sound(caplog: pytest.LogCaptureFixture) -> None:
    model = Critics()
    critic = torch.optim.Adam(model.critic.parameters(), lr=0.01)
    generator = torch.optim.Adam(model.generator.parameters(), lr=0.01)
    transport = ScriptedTransport([training(0.01, 7)])
    tuner = Tuner(model, [generator, critic], transport=transport)
    for _, batch in zip(range(6), tuner.batches(list(torch.randn(9, 8, 4))), strict=False):
        for _ in range(5):
            critic.zero_grad()
            model.critic(batch).square().mean().backward()
            critic.step()
        loss = model.generator(batch).square().mean()
        generator.zero_grad()
        loss.backward()
        generator.step()
        tuner.step(loss)
    assert tuner.committed_step == 6
    assert not warnings_of(caplog)


@pytest.mark.parametrize(
    ("made_anew", "words"),
    [
        ("nothing", "no weight of the tuner's optimizer was changed: call optimizer.step() before it"),
        ("optimizer", "another optimizer, of class SGD, steps the weights that the tuner's has"),
        ("model", "no weight of the tuner's optimizer was changed, but an optimizer of other weights, SGD"),
    ],
)
def test_an_optimizer_that_is_never_stepped_is_noticed(
    made_anew: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop()
    if made_anew == "model":
        loop.model = nn.Linear(4, 1)
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.01)
    for batch in loop.batches():
        loss = loop.loss(batch)
        if made_anew != "nothing":
            loop.update()
        loop.tuner.step(loss)
    assert any(words in warning for warning in warnings_of(caplog))


def test_a_step_that_calls_no_hooks_is_none_that_was_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    for batch in loop.batches():
        loss = loop.loss(batch)
        with torch.no_grad():
            for weight in loop.model.parameters():
                assert weight.grad is not None
                weight.sub_(weight.grad, alpha=loop.tuner.lr)
                weight.grad = None
        loop.tuner.step(loss)
    assert warnings_of(caplog) == []
