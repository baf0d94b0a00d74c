"""Gives a training loop its batches: across epochs, back again after a probe, and to the end of the budget."""

from __future__ import annotations

import abc
import logging
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from lrpilot.arguments import shown, whole
from lrpilot.data.replay import BatchBuffer
from lrpilot.data.streams import Batches, Epoch
from lrpilot.errors import ConfigError
from lrpilot.run.runners.replanning import ReplannableRunner
from lrpilot.v1 import tuner_pb2 as pb


def _gives_batches(loader: object) -> bool:
    """Whether something can be iterated, if only by its numbers, as a PyTorch dataset can."""
    return hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")


LONGEST_SILENCE = 1000
"""So many batches of a probe, with no step after them, can't all be micro-batches of one update."""

Batch = TypeVar("Batch")
log = logging.getLogger("lrpilot")


class DrawingRunner(ReplannableRunner):
    """Carries out directives of a loop that draws its batches from the tuner, and counts its steps."""

    _way_on = "to train on, call tuner.extend(steps)"
    """What is said to a loop that goes on after the end."""
    _closed = False
    """Whether the tuning was ended by `close`."""
    _said_over = False
    """Whether a loop that goes on after the end was told so."""
    _said_left = False
    """Whether a loop that leaves epochs before their end was told so."""
    _drawn = 0
    """Batches that were drawn since the latest step."""

    def batches(self, loader: Iterable[Batch]) -> Batches[Batch]:
        """Draws from a loader until the budget is spent: across epochs, and back again after a probe.

        May be called again: with the same loader it goes on where it was, with another one it starts at its beginning.
        Its length is the number of steps that are left. A loop over epochs uses `epochs`.

        Args:
            loader: anything that can be iterated anew for every epoch, or that never ends.

        Raises:
            ConfigError: the loader can't be iterated.
            ValueError: the loader is empty, or can't be iterated again; as the first batch is drawn.
        """
        if not _gives_batches(loader):
            raise ConfigError(f"batches: {shown(loader)}; give what gives batches, such as a DataLoader")
        return Batches(self._draw(loader), lambda: self.remaining_steps)

    def epochs(self, loader: Iterable[Batch], n_epochs: int | None = None) -> Iterator[Epoch[Batch]]:
        """Draws from a loader epoch by epoch, so that a loop can validate and save where people do.

        An epoch is one pass over the data in committed steps; it ends after none of a search, whose batches come with
        it. The last one ends with the budget, which the search is part of. A loop that leaves an epoch early goes on
        in it. May be called again, as `batches`; a run that was resumed goes on in the epoch that it was in.

        Args:
            loader: as for `batches`; it has a length, the number of batches of an epoch.
            n_epochs: ends before that epoch, from 0; None: with the budget.

        Raises:
            ConfigError: the loader can't be iterated, is not as long on every rank, so that epochs
                would end at different steps, or `n_epochs` is no number; as the first epoch is begun.
            ValueError: the loader has no length; then, too. And as `batches`.
        """
        if not _gives_batches(loader):
            raise ConfigError(f"epochs: {shown(loader)}; give what gives batches, such as a DataLoader")
        if n_epochs is not None:
            n_epochs = whole("n_epochs", n_epochs, "a whole number of epochs, as 10", low=0)
        length = len(loader) if isinstance(loader, Sized) else 0
        if length < 1:
            raise ValueError(
                f"epochs: the loader ({type(loader).__name__}) has no length, so nothing tells where an epoch ends; "
                "use tuner.batches(loader)"
            )
        self._refuse_uneven(length)
        drawn = self._stream(self._opened(loader))
        while not self._finished:
            number = self._position.passed(length) // length
            if n_epochs is not None and number >= n_epochs:
                return
            epoch = self._epoch(drawn, number, length)
            yield epoch
            if len(epoch) and not self._finished:
                self._say_left(epoch)

    def _refuse_uneven(self, length: int) -> None:
        """Raises: ConfigError: an epoch is longer on a rank than on another, which may wait at its end."""
        ranks = self._ranks
        if ranks is None or ranks.parted:
            return
        try:
            lengths = [int(own) for (own,) in ranks.gather([length])]
        except RuntimeError:
            if ranks.lost:
                raise
            return  # the tuning has failed on a rank, and goes nowhere on all
        if len({*lengths}) > 1:
            shortest, longest = lengths.index(min(lengths)), lengths.index(max(lengths))
            raise ConfigError(
                f"epochs: an epoch has {lengths[shortest]} batches on rank {shortest} and {lengths[longest]} on rank "
                f"{longest}, so that it would end at different steps; give all ranks as many (DistributedSampler), or "
                "use tuner.batches(loader)"
            )

    def _epoch(self, drawn: Iterator[Batch], number: int, length: int) -> Epoch[Batch]:
        """An epoch of so many batches, which takes them from `drawn`."""
        end = length * (number + 1)

        def over() -> bool:
            return not self.searching and self._position.passed(length) >= end

        return Epoch(number, drawn, over, lambda: max(end - self._position.passed(length), 0))

    def _draw(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """See `batches`."""
        yield from self._stream(self._opened(loader))

    def _opened(self, loader: Iterable[Batch]) -> BatchBuffer[Batch]:
        """The stream of a loader, at the place where the run is in it."""
        buffer, begins = self._position.open(loader)
        if begins:
            self._repetition.forget()
        if begins and self._lease.done > 0:
            self._repetition.lose()
        elif begins:
            if self._record.steps == 0:
                # What happened since the tuner was made (random numbers, loaded weights) belongs to the start.
                self._backend.take(self._position.roots)
                self._ending.begin(self._lease.directive)
            self._repetition.begin(self._position.follow(self._lease.directive))
        return buffer

    def _stream(self, buffer: BatchBuffer[Batch]) -> Iterator[Batch]:
        """Draws until the budget is spent."""
        if self._finished:
            self._say_over("there are no more batches; a loop over epochs takes them from tuner.epochs(loader)")
        while not self._finished:
            if self._catch_up():
                continue
            self._drawn += 1
            if self._drawn > LONGEST_SILENCE and self.searching:
                self._end_silence()
                continue
            batch = self._next_batch(buffer)
            if self._lease.done == 0:
                self._repetition.draw()
            self._on_drawn()
            yield batch

    @property
    def searching(self) -> bool:
        """Whether the next step will be rolled back."""
        return not (self._finished or self._lease.committed)

    @property
    def committed_step(self) -> int:
        """Steps that are in the model, those of an open probe left out."""
        return self._record.committed + (self._open_steps if self._lease.committed else 0)

    @property
    def search_steps(self) -> int:
        """Steps that were, or will be, rolled back."""
        return self._record.searched + (0 if self._lease.committed else self._open_steps)

    @property
    def remaining_steps(self) -> int | None:
        """Steps that may still be run; None: there is no end."""
        total_steps = self._plan.total_steps
        return None if total_steps is None else total_steps - self.committed_step - self.search_steps

    @property
    def _open_steps(self) -> int:
        """Steps that are not in the record yet."""
        return 0 if self._finished else self._lease.done

    @abc.abstractmethod
    def _on_drawn(self) -> None:
        """A batch has been drawn, and is given to the loop next."""

    def _end_silence(self) -> None:
        """Ends a probe of which nothing is heard: a loop that leaves out steps without a finite loss makes none."""
        log.warning(
            "lrpilot: %d batches were drawn with no tuner.step(loss), so the probe is taken to have diverged: call it "
            "also where the loss is not finite",
            LONGEST_SILENCE,
        )
        self._drawn = 0
        self._lease.done += 1
        self._guarded(lambda: self._advance(pb.OUTCOME_DIVERGED))

    def _say_left(self, epoch: Epoch[Batch]) -> None:
        """Says, once, that the loop has left an epoch before its end."""
        if not self._said_left:
            self._said_left = True
            log.warning(
                "lrpilot: epoch %d was left with %d batches to come: it goes on, with the same number, and what is "
                "validated or saved in between may be of a probe, while tuner.searching is true",
                epoch.number,
                len(epoch),
            )

    def _say_over(self, what: str) -> None:
        """Says, once, that the tuner is used after its end."""
        if not self._said_over:
            self._said_over = True
            total_steps = self._plan.total_steps
            why = "" if total_steps is None else f", as the budget of {total_steps} steps is spent"
            if self._closed and total_steps is not None and self._record.steps < total_steps:
                why = f" with close(), before the budget of {total_steps} steps is spent"
            log.warning("lrpilot: the tuning has ended%s: %s; %s", why, what, self._way_on)
