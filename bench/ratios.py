"""Whether two ways to run differ: ratios of figures from the same round, and how certain they are.

Knows: numbers. Never: what they mean, how they are shown.
"""

import math
import statistics
from dataclasses import dataclass

# How sure an interval is at least.
SURE = 0.95


def interval(values, sure=SURE):
    """(low, high) between which the true median is, whatever the values are distributed like; None: too few of them.

    Each value is above the true median as probably as below it, so that a coin says how probable it is that the k lowest, or the k
    highest, are all of those on one side.
    """
    ordered, count = sorted(values), len(values)
    found = None
    for left_out in range(count // 2):
        outside = 2 * sum(math.comb(count, k) for k in range(left_out + 1)) / 2**count
        if 1 - outside < sure:
            break
        found = (ordered[left_out], ordered[count - 1 - left_out])
    return found


@dataclass(frozen=True)
class Versus:
    """One way compared with another: medians of ratio and difference over the rounds, each with its interval or None."""

    ratio: float
    ratio_within: tuple
    difference: float
    difference_within: tuple


def versus(own, other):
    """Compares figures by round, {round: value}; None if no round has both."""
    both = [turn for turn in own if other.get(turn)]
    if not both:
        return None
    ratios = [own[turn] / other[turn] for turn in both]
    differences = [own[turn] - other[turn] for turn in both]
    return Versus(
        statistics.median(ratios), interval(ratios), statistics.median(differences), interval(differences)
    )


def noise(again):
    """The range of ratios of a program to itself, (low, high): a ratio within it is no difference. None if it is not known."""
    if again is None or again.ratio_within is None:
        return None
    low, high = again.ratio_within
    return min(low, 1), max(high, 1)


def differs(one, band):
    """Is there certainly a difference? None if that cannot be decided."""
    if one is None or one.ratio_within is None or band is None:
        return None
    low, high = one.ratio_within
    return high < band[0] or low > band[1]
