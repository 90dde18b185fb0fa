"""The network for all measurements: a namespace of its own, with a known congestion control algorithm.

Knows: namespaces, the loopback device, routes. Never: what is measured.
"""

import os
import subprocess
import sys

import proc

CONTROL = "/proc/sys/net/ipv4/tcp_congestion_control"
# Set in the process that runs in the namespace.
INSIDE = "BALANCE_BENCH_NETWORK"
SYSTEM = "system"


def enter(control):
    """Goes on in a network namespace where `control` is in force; with `system`, or where that is refused, stays here.

    The machine's own setting is left alone. What is in force is told by `about`.
    """
    if control == SYSTEM or INSIDE in os.environ:
        if INSIDE in os.environ:
            _settle(control)
        return
    # Root of a user namespace may make a network, too.
    for flags in (["-n"], ["-rn"]):
        if subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode == 0:
            sys.stdout.flush()
            os.execvpe("unshare", ["unshare", *flags, sys.executable, "-B", *sys.argv], {**os.environ, INSIDE: "1"})
    print("no network namespace to be had: measured in the system's own", file=sys.stderr)


def _settle(control):
    def ip(*words):
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode:
            raise proc.Failed(f"ip {' '.join(words)}: {done.stderr.strip()}")

    ip("link", "set", "lo", "up")
    # By route: the sysctl of a namespace takes only what the machine's administrator has allowed to everybody.
    for route in ("127.0.0.0/8", "127.0.0.1"):
        kernels_own = ["dev", "lo", "proto", "kernel", "scope", "host", "src", "127.0.0.1"]
        ip("route", "replace", "table", "local", "local", route, *kernels_own, "congctl", control)


def about(control):
    """Which congestion control algorithm is in force, and where."""
    if INSIDE in os.environ:
        return f"congestion control {control}, in a network namespace of its own"
    try:
        with open(CONTROL) as file:
            name = file.read().strip()
    except OSError:
        name = "unknown"
    return f"congestion control {name}, in the system's network"
