"""The time limit: it stops loops in any thread, and nothing after the block."""

import threading
import time

import pytest

from limbeck.time_limit import TookTooLong, at_most


def loop() -> None:
    while True:
        pass


def test_a_loop_is_stopped() -> None:
    clock = time.monotonic()
    with pytest.raises(TookTooLong), at_most(0.2):
        loop()
    assert time.monotonic() - clock < 5


def test_it_stops_its_own_thread_alone() -> None:
    stopped = []

    def work() -> None:
        try:
            with at_most(0.1):
                loop()
        except TookTooLong:
            stopped.append(threading.get_ident())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert stopped == [thread.ident]


def test_nothing_is_raised_after_the_block() -> None:
    for _ in range(300):
        try:
            with at_most(0.001):
                time.sleep(0.001)  # ends at about the moment of the limit
        except TookTooLong:
            pass
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass


def test_an_error_of_the_block_is_passed_on() -> None:
    with pytest.raises(KeyError), at_most(5):
        raise KeyError
