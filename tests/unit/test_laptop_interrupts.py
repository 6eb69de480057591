"""Signals that end `flywheel up`, and the processes that it must take along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from flywheel.laptop.interrupts import SIGNALS, Interrupts
from flywheel.laptop.processes import end_sessions


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_interrupts(number: signal.Signals) -> None:
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_a_signal_that_is_held_comes_when_the_block_has_ended() -> None:
    done = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("the block's work")
        done.append("what comes after")
    assert done == ["the block's work"]


def test_the_handlers_from_before_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupts():
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_ended_sessions_have_no_process_left_when_it_returns() -> None:
    # A child with some memory to give back, that does not listen to SIGTERM, and a child of its own.
    code = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'x = bytes(300_000_000); import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    leader = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    end_sessions([leader.pid], grace_seconds=0.2)
    left = [pid for pid in (leader.pid, child) if psutil.pid_exists(pid)]
    assert [pid for pid in left if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE] == []
    leader.wait()
    leader.stdout.close()
