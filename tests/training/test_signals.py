"""Signals while a model trains."""

import os
import signal

import pytest

from idvl.training.signals import Interrupts


@pytest.mark.parametrize(("before", "asked"), [(signal.SIG_IGN, 0), (signal.default_int_handler, signal.SIGINT)])
def test_a_signal_is_a_wish_unless_it_is_ignored(before, asked):
    theirs = signal.signal(signal.SIGINT, before)
    try:
        with Interrupts(several=False) as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.number == asked and signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGINT, theirs)
