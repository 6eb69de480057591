"""What this machine lacks to enforce NetworkPolicies; kube/policies.go does it where it lacks nothing."""

from __future__ import annotations

import subprocess

from tests.e2e.cluster.programs import ClusterUnavailableError

_NAME = "FLYWHEEL-PROBE"


def require_kernel() -> None:
    """Try what the rules are made of: sets of addresses, and iptables that look into them.

    Raises:
        ClusterUnavailableError: this kernel cannot; the message is what it was asked.
    """
    rule = ("-A", _NAME, "-m", "set", "--match-set", _NAME, "src", "-m", "conntrack", "--ctstate", "NEW")
    steps = (
        ("ipset", "create", _NAME, "hash:net", "timeout", "0"),
        ("iptables", "-w", "-N", _NAME),
        ("iptables", "-w", *rule, "-m", "comment", "--comment", "probe", "-j", "REJECT"),
    )
    try:
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True)
            if done.returncode:
                raise ClusterUnavailableError(
                    f"NetworkPolicies are not enforced here: {' '.join(step)}: {done.stderr.strip()}"
                )
    finally:
        for step in (
            ("iptables", "-w", "-F", _NAME),
            ("iptables", "-w", "-X", _NAME),
            ("ipset", "destroy", _NAME),
        ):
            subprocess.run(step, capture_output=True)
