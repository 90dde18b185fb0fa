"""The micro-benchmark of the scheduler: `cargo bench --bench schedule`.

Knows: how cargo is called, the output of divan and of criterion. Never: what a pick is.
"""

import os
import re

import proc

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(HERE)
SOURCE = os.path.join(PROJECT, "benches", "schedule.rs")
# What the benchmark calls its functions -> what the table calls the row; any other function keeps its name.
NAMES = {"round_robin": "rr", "round_robin_half_full": "maxc"}
NANOSECONDS = {"ps": 1e-3, "ns": 1, "µs": 1e3, "us": 1e3, "ms": 1e6, "s": 1e9}


def picks(children):
    """{"pick-rr-64": {"ns": 31.0}, ...}."""
    manifest = os.path.join(PROJECT, "Cargo.toml")
    argv = ["cargo", "bench", "--locked", "--manifest-path", manifest, "--bench", "schedule"]
    return parse(proc.run(children, argv, timeout=1200))


def parse(text):
    """Reads the medians of a divan tree or of criterion's `time: [low mid high]` lines."""
    found = {}
    path = []
    for line in text.splitlines():
        criterion = re.match(r"\s*(\S.*?)?\s*time:\s+\[\S+ \S+ ([\d.]+) (\S+) ", line)
        if criterion:
            _add(found, [criterion[1] or (path[-1] if path else "")], float(criterion[2]), criterion[3])
            continue
        branch = re.match(r"^([│ ]*)[├╰]─ (\S+)(.*)$", line)
        if not branch:
            path = [line.strip()] if line.strip() else path
            continue
        depth = len(branch[1]) // 3
        path = path[: depth + 1] if depth else path[:1]
        path.append(branch[2])
        # Columns: fastest, slowest, median, mean, samples, iterations.
        columns = re.findall(r"([\d.]+) (ps|ns|µs|ms|s)\b", branch[3])
        if len(columns) >= 3:
            _add(found, path, float(columns[2][0]), columns[2][1])
    if not found:
        raise proc.Failed("cargo bench printed no figures that could be read")
    return found


def _add(found, path, value, unit):
    """Adds a figure if it has a name and a number of channels: {function}/{channels}."""
    *names, last = "/".join(path).split("/")
    if names and re.fullmatch(r"\d[\d_,]*", last) and unit in NANOSECONDS:
        name = NAMES.get(names[-1], names[-1])
        found[f"pick-{name}-{re.sub('[_,]', '', last)}"] = {"ns": value * NANOSECONDS[unit]}
