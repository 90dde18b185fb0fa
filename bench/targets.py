"""The targets for all figures, and whether they are met.

Knows: the targets, medians. Never: how a figure is measured or shown.
"""

import statistics
from dataclasses import dataclass

import peers

BEST, HAPROXY, NUMBER = "best peer", "HAProxy", "number"


@dataclass(frozen=True)
class Target:
    """A bound on one figure of balance: `factor` times the figure of `against`, or `factor` itself."""

    cell: str
    metric: str
    at_least: bool
    factor: float
    against: str = NUMBER

    def __str__(self):
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.factor:g}" + ("" if self.against == NUMBER else f" x {self.against}")


@dataclass(frozen=True)
class Verdict:
    """Whether balance met a target. `ratio` is relative to the other side's median, or the figure itself if the target is one."""

    target: Target
    ratio: float = None
    against: str = ""

    @property
    def met(self):
        if self.ratio is None:
            return False
        return self.ratio >= self.target.factor if self.target.at_least else self.ratio <= self.target.factor


def targets(workers):
    """All targets for this number of workers."""
    found = []
    for cell in [f"bulk-{n}-{direction}" for n in (1, 2, 8) for direction in ("up", "down")]:
        found += [
            Target(cell, "gbits", True, 1.25, BEST),
            Target(cell, "cpu_ms", False, 0.35, HAPROXY),
            Target(cell, "user_share", False, 5),
        ]
    for cell in ("requests-50", "requests-500"):
        found += [Target(cell, "rps", True, 1.1, BEST), Target(cell, "p99_us", False, 1, BEST)]
    found.append(Target("latency", "added_us", False, 0.8, HAPROXY))
    for cell in ("connections-32", "connections-256"):
        found += [Target(cell, "rate", True, 1.1, BEST), Target(cell, "cpu_us", False, 0.9, HAPROXY)]
    found += [Target("header", "kept", True, 0.97), Target("name", "kept", True, 0.9), Target("http", "kept", True, 0.9)]
    found += [
        Target("idle", "pss", False, 1024),
        Target("busy", "kept", True, 0.95),
        Target("start", "ms", False, 10),
        Target("fairness", "most", False, -(-8 // workers) + 1),
        Target("fairness", "slowest", True, 0.5),
        *(Target(f"pick-{policy}-64", "ns", False, 100) for policy in ("rr", "hash", "maxc")),
        # log2(10 000) / log2(64): what a tree would grow by.
        Target("pick-rr-10000", "growth", False, 2.2),
    ]
    return found


class Samples:
    """All figures of a run: cell -> metric -> program -> one value per round."""

    def __init__(self):
        self.values, self.failures, self.notes = {}, [], {}
        # The same by round, for what is compared with what was measured beside it: (cell, metric, program) -> round -> value.
        self.rounds = {}

    def add(self, cell, program, figures, turn=0):
        """Adds the figures of one measurement; text goes to the notes."""
        for metric, value in figures.items():
            if isinstance(value, str):
                self.notes.setdefault(cell, {})[program] = value
            elif value is not None:
                self.values.setdefault(cell, {}).setdefault(metric, {}).setdefault(program, []).append(value)
                self.rounds.setdefault((cell, metric, program), {})[turn] = value

    def all(self, cell, metric, program):
        """The values of all rounds; may be empty."""
        return self.values.get(cell, {}).get(metric, {}).get(program, [])

    def median(self, cell, metric, program):
        """The median over the rounds, or None if there are no values."""
        values = self.all(cell, metric, program)
        return statistics.median(values) if values else None

    def best_peer(self, cell, metric, more_is_better):
        """(name, median) of the best peer, or (None, None)."""
        found = [(peer, self.median(cell, metric, peer)) for peer in peers.PEERS]
        found = [pair for pair in found if pair[1] is not None]
        if not found:
            return None, None
        return (max if more_is_better else min)(found, key=lambda pair: pair[1])


def of_observing():
    """The targets of `bench/compare --observe`."""
    return [Target("scrape-quiet", "p50_ms", False, 20), Target("scrape-quiet", "p99_ms", False, 20)]


def derive(samples):
    """Figures that are ratios of two cells."""
    low = samples.median("pick-rr-64", "ns", "balance")
    high = samples.median("pick-rr-10000", "ns", "balance")
    if low and high:
        samples.add("pick-rr-10000", "balance", {"growth": high / low})


def judge(samples, target):
    """Compares the medians."""
    own = samples.median(target.cell, target.metric, "balance")
    if target.against == NUMBER or own is None:
        return Verdict(target, own)
    if target.against == BEST:
        name, other = samples.best_peer(target.cell, target.metric, target.at_least)
    else:
        name, other = "haproxy", samples.median(target.cell, target.metric, "haproxy")
    if not other:
        return Verdict(target)
    return Verdict(target, own / other, peers.TITLES[name])
