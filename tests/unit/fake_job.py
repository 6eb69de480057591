"""A stand-in for `flywheel.runtimes.job_command`: a job that does what its SPEC says, for tests of the runtime."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from flywheel.runtimes.job_command import hold_lifeline


def start_environment() -> list[str]:
    """Return the variables that this process, or the fork server above it, was started with."""
    return Path("/proc/self/environ").read_bytes().decode().split("\0")


ready = False


def make_ready() -> None:
    """Be what a server is to call ahead."""
    global ready
    ready = True


def main(arguments: list[str]) -> int:
    hold_lifeline()
    _, spec = arguments
    what, _, value = spec.partition(":")
    if what == "say":
        print(value)
    elif what == "slow":  # one line at once, another after a while
        print("first", flush=True)
        time.sleep(float(value))
        print("second")
    elif what == "bar":
        print("10 %", end="\r", flush=True)
        print("20 %", end="\r", flush=True)
        print("done")
    elif what == "refuse":
        print(f"error: {value}", file=sys.stderr)
        return 1
    elif what == "crash":
        raise ValueError(value)
    elif what == "signal":
        os.kill(os.getpid(), int(value))
    elif what == "sleep":  # with a child of its own, both written down
        child = subprocess.Popen(["sleep", "300"])
        Path(value).write_text(f"{os.getpid()} {child.pid}")
        print("sleeping", flush=True)
        time.sleep(300)
    elif what == "save":  # saves its state when it is asked to end
        signal.signal(signal.SIGTERM, lambda *_: (Path(value).write_text("saved"), sys.exit(3)))
        print("working", flush=True)
        time.sleep(300)
    elif what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(value).write_text(str(os.getpid()))
        print("working", flush=True)
        time.sleep(300)
    elif what == "ready":
        print(ready)
    elif what == "state":
        import random

        print(os.environ.get("FLYWHEEL_THREADS"), os.environ.get("AIRFLOW__CORE__FERNET_KEY"))
        print(random.random())
        print(os.getsid(0) == os.getpid())
    elif what == "environment":  # its own, and that of the process it was forked from
        print(" ".join(sorted(os.environ)))
        print(" ".join(sorted(line.split("=")[0] for line in start_environment())))
    elif what == "process":
        print(os.getpid(), os.environ["FLYWHEEL_THREADS"])
    elif what == "together":  # notes when it ran
        began = time.time()
        time.sleep(0.5)
        with open(value, "a") as file:
            file.write(f"{began} {time.time()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
