"""What a command says of what it has done, where it may be that nobody can be told."""

from __future__ import annotations

import sys

from tuner_server.base import streams
from tuner_server.base.terminal import say
from tuner_server.cli.common import print_json
from tuner_server.core.errors import TunerError


def tell_done(done: str, found: object = None) -> None:
    """Says what was done, or prints what was found as JSON, where that is given.

    Raises: TunerError: standard output takes nothing; the error says what was done.
    """
    try:
        if found is None:
            say(done)
        else:
            print_json(found)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough
        streams.write_no_more()
    except OSError as error:
        streams.write_no_more()
        raise TunerError(f"{done}; standard output could not be told: {error.strerror}") from error


def hand_over(secret: str) -> None:
    """Prints what is shown this once. Raises: TunerError: nobody can have got it."""
    try:
        streams.raise_if_closed(streams.STDOUT)
        print(secret)
        sys.stdout.flush()
    except OSError as error:
        streams.write_no_more()
        raise TunerError(f"standard output: {error.strerror}") from error
