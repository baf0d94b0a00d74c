"""The thread in which calls are made, and those who wait for it."""

from __future__ import annotations

import contextvars
import os
import signal
import threading

import pytest
from lrpilot.transport.call_thread import CallThread

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name")


def test_calls_are_made_one_after_another_in_one_thread_that_is_not_the_callers() -> None:
    calls = CallThread()
    idents = {calls.run(threading.get_ident) for _ in range(3)}
    assert len(idents) == 1
    assert threading.get_ident() not in idents
    calls.close()


def test_a_call_sees_the_context_of_who_makes_it() -> None:
    NAME.set("caller")
    calls = CallThread()
    assert calls.run(NAME.get) == "caller"
    calls.close()


def test_what_a_call_raises_is_raised_where_it_is_waited_for_and_the_thread_lives_on() -> None:
    calls = CallThread()

    def fail() -> None:
        raise ArithmeticError("no answer")

    with pytest.raises(ArithmeticError, match="no answer"):
        calls.run(fail)
    assert calls.run(lambda: 1) == 1
    calls.close()


def test_who_is_interrupted_leaves_the_call_behind_and_the_next_one_waits_for_nothing() -> None:
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background are deaf to it
    calls, released, ended = CallThread(), threading.Event(), threading.Event()
    main = threading.get_ident()

    def hang() -> None:
        signal.pthread_kill(main, signal.SIGINT)  # as Ctrl-C does
        released.wait(30)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        calls.run(hang)
    assert calls.run(lambda: 2) == 2
    assert not ended.is_set()
    released.set()
    assert ended.wait(30), "the call that was left behind ends by itself"
    signal.signal(signal.SIGINT, former)
    calls.close()


def test_a_forked_process_has_a_thread_of_its_own() -> None:
    calls = CallThread()
    assert calls.run(os.getpid) == os.getpid()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if calls.run(os.getpid) == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    calls.close()


def test_the_thread_ends_with_its_object() -> None:
    calls = CallThread()
    thread = calls.run(threading.current_thread)
    assert thread.is_alive()
    del calls
    thread.join(30)
    assert not thread.is_alive()
