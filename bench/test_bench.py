"""Tests of everything that needs no benchmark run: `python3 -m unittest discover bench`.

Knows: sample outputs, made-up figures. Never: processes, the network.
"""

import argparse
import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import unittest

import build
import eyes
import load
import main
import micro
import observe
import peers
import place
import plots
import proc
import ratios
import rows
import table
import targets
from targets import BEST, HAPROXY, Target

DIVAN = """\
schedule                      fastest       │ slowest       │ median        │ mean          │ samples │ iters
├─ hash                                     │               │               │               │         │
│  ├─ 64                      37.32 ns      │ 47.87 ns      │ 37.92 ns      │ 38.2 ns       │ 100     │ 200000
│  ╰─ 10000                   57.61 ns      │ 148.4 ns      │ 1.027 µs      │ 91.56 ns      │ 100     │ 200000
╰─ round_robin                              │               │               │               │         │
   ╰─ 64                      37.73 ns      │ 62.56 ns      │ 38.09 ns      │ 43.61 ns      │ 100     │ 200000
"""


def command(name):
    """A command of this directory as a module."""
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(os.path.dirname(os.path.abspath(__file__)), name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def samples(cell, metric, **medians):
    found = targets.Samples()
    for program, value in medians.items():
        for each in (value * 0.5, value, value * 2):
            found.add(cell, program, {metric: each})
    return found


class Judging(unittest.TestCase):
    def test_more_is_compared_with_the_highest_peer(self):
        found = samples("bulk", "gbits", balance=12, haproxy=8, nginx=10, pen=9)
        verdict = targets.judge(found, Target("bulk", "gbits", True, 1.25, BEST))
        self.assertEqual((verdict.against, verdict.ratio, verdict.met), ("nginx", 1.2, False))

    def test_less_is_compared_with_the_lowest_peer(self):
        found = samples("requests", "p99_us", balance=90, haproxy=200, nginx=100)
        verdict = targets.judge(found, Target("requests", "p99_us", False, 1, BEST))
        self.assertEqual((verdict.against, verdict.ratio, verdict.met), ("nginx", 0.9, True))

    def test_a_target_against_haproxy_ignores_the_others(self):
        found = samples("bulk", "cpu_ms", balance=300, haproxy=1000, nginx=100)
        self.assertTrue(targets.judge(found, Target("bulk", "cpu_ms", False, 0.35, HAPROXY)).met)

    def test_what_was_not_measured_is_missed(self):
        self.assertFalse(targets.judge(targets.Samples(), Target("idle", "pss", False, 1024)).met)
        found = samples("bulk", "gbits", balance=12)
        self.assertFalse(targets.judge(found, Target("bulk", "gbits", True, 1.25, BEST)).met)

    def test_every_target_names_a_line_and_a_figure_that_exist(self):
        known = {(cell.key, metric.key) for row in rows.ROWS for cell in row.cells for metric in row.metrics}
        for target in targets.targets(2):
            if not target.cell.startswith("pick-"):
                self.assertIn((target.cell, target.metric), known)


class Reading(unittest.TestCase):
    def test_divan_gives_medians_by_policy_and_channels(self):
        found = {key: figures["ns"] for key, figures in micro.parse(DIVAN).items()}
        self.assertEqual(found, {"pick-hash-64": 37.92, "pick-hash-10000": 1027.0, "pick-rr-64": 38.09})

    def test_wrk_latencies_have_units(self):
        text = "  Latency Distribution\n     50%  950.00us\n     99%    1.50ms\n"
        self.assertEqual((load._microseconds(text, "50"), load._microseconds(text, "99")), (950, 1500))


class Building(unittest.TestCase):
    def test_cargo_says_where_the_program_is(self):
        artifacts = [
            {"reason": "compiler-artifact", "executable": None},
            {"reason": "compiler-artifact", "executable": "/elsewhere/release/balance"},
            {"reason": "build-finished", "success": True},
        ]
        self.assertEqual(build.program("\n".join(map(json.dumps, artifacts))), "/elsewhere/release/balance")
        with self.assertRaises(proc.Failed):
            build.program(json.dumps(artifacts[0]))


class Bounding(unittest.TestCase):
    def test_no_measurement_begins_after_the_limit(self):
        row = rows.Row("row", "a row", [rows.Cell("cell", "a cell")], [], lambda *_: {})
        steps = list(main.plan([row], ["direct", "balance"], 2))
        bench = rows.Bench(None, None, rows.QUICK, "")
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(main.measure(bench, steps, targets.Samples(), 2, None), 4)
            self.assertEqual(main.measure(bench, steps, targets.Samples(), 2, 1e-9), 0)

    def test_limits_have_units(self):
        self.assertEqual([main.duration(text) for text in ("90s", "25m", "1h")], [90, 1500, 3600])
        for text in ("", "m", "90", "-1s", "1.5h"):
            with self.assertRaises(argparse.ArgumentTypeError):
                main.duration(text)


class Showing(unittest.TestCase):
    def test_numbers_keep_what_matters(self):
        shown = [table.number(value) for value in (None, 0.0081, 1, 1.246, 35.14, 12216.4)]
        self.assertEqual(shown, ["–", "0.0081", "1", "1.25", "35.1", "12 216"])

    def test_every_program_takes_its_turn_in_another_order_each_round(self):
        row = rows.Row("row", "a row", [rows.Cell("cell", "a cell")], [], None)
        order = [program for _, _, _, program in main.plan([row], ["direct", "balance", "pen"], 2)]
        self.assertEqual(order, ["direct", "balance", "pen", "balance", "pen", "direct"])

    def test_plots_survive_one_value_equal_values_and_zero(self):
        for value in (0.0, 5.0):
            triple = (value, value, value)
            self.assertIn("</svg>", plots.bars("t", "u", ["g"], peers.TITLES, [{"balance": triple}]))
            for log in (False, True):
                self.assertIn("</svg>", plots.lines("t", "u", "x", {"pen": [(1, *triple)]}, {"pen": "pen"}, log))


class TakingPart(unittest.TestCase):
    def columns(self, key):
        row = next(row for row in rows.ROWS if row.key == key)
        return [program for program in main.everybody() if main.takes_part(program, row)]

    def test_another_setting_is_measured_where_it_may_matter(self):
        self.assertIn(peers.POLLING, self.columns("requests"))
        self.assertNotIn(peers.POLLING, self.columns("bulk"))

    def test_an_earlier_build_takes_part_wherever_balance_does(self):
        for row in rows.ROWS:
            self.assertEqual(peers.BEFORE in self.columns(row.key), row.is_old)

    def test_a_table_has_a_column_for_each_who_takes_part(self):
        row = next(row for row in rows.ROWS if row.key == "requests")
        found = samples("requests-50", "rps", balance=3, polling=2)
        text = table.figures([row], found, {"requests": ["balance", peers.POLLING]})
        self.assertIn("| balance --busy-poll on |", text)


class Against(unittest.TestCase):
    def test_an_interval_leaves_out_as_many_as_a_coin_allows(self):
        # All on one side of the median: 2 / 2^5 is more than a twentieth, 2 / 2^6 is less.
        self.assertIsNone(ratios.interval([1, 2, 3, 4, 5]))
        self.assertEqual(ratios.interval([6, 2, 3, 4, 5, 1]), (1, 6))
        # 2 (1 + 9) / 2^9 = 0.039, and 2 (1 + 9 + 36) / 2^9 = 0.18.
        self.assertEqual(ratios.interval(list(range(9))), (1, 7))
        self.assertEqual(ratios.interval(list(range(9)), 0.99), (0, 8))

    def test_only_what_was_measured_in_the_same_round_is_compared(self):
        one = ratios.versus({0: 20, 1: 30, 2: 5}, {0: 10, 1: 10, 3: 1})
        self.assertEqual((one.ratio, one.difference, one.ratio_within), (2.5, 15, None))
        self.assertIsNone(ratios.versus({0: 1}, {1: 1}))
        self.assertIsNone(ratios.versus({0: 1}, {0: 0}))

    def test_a_drift_of_the_machine_is_no_difference(self):
        drift = {turn: 100 * 2**turn for turn in range(9)}
        again = ratios.versus({turn: value * (0.99, 1.01)[turn % 2] for turn, value in drift.items()}, drift)
        self.assertEqual(ratios.noise(again), (0.99, 1.01))
        same = ratios.versus({turn: value * (1.008, 0.995)[turn % 2] for turn, value in drift.items()}, drift)
        more = ratios.versus({turn: value * (1.03, 1.02)[turn % 2] for turn, value in drift.items()}, drift)
        self.assertEqual([ratios.differs(one, ratios.noise(again)) for one in (same, more)], [False, True])
        few = ratios.versus({0: 1, 1: 1}, {0: 2, 1: 2})
        self.assertIsNone(ratios.differs(few, ratios.noise(again)))
        self.assertIsNone(ratios.differs(more, None))

    def test_a_round_that_failed_does_not_move_the_others(self):
        found = targets.Samples()
        for turn in range(7):
            for program, value in (("bare", 10), ("again", 10), ("text", 12)):
                if (turn, program) != (3, "bare"):
                    found.add("connections-32", program, {"cpu_us": value * 3**turn}, turn)
        row = next(row for row in observe.ROWS if row.key == "connections")
        text = table.against([row], found, peers.BARE, peers.AGAIN)
        self.assertIn("1.200 (1.200 to 1.200) | differs |", " ".join(text.split()))
        self.assertIn("1.000 (1.000 to 1.000) | noise |", " ".join(text.split()))

    def test_every_way_to_look_has_a_name_and_every_target_a_line(self):
        known = {(cell.key, metric.key) for row in observe.ROWS for cell in row.cells for metric in row.metrics}
        for target in targets.of_observing():
            self.assertIn((target.cell, target.metric), known)
        for row in observe.ROWS:
            self.assertTrue(set(row.programs) <= {"balance", *peers.OBSERVED})


class Looking(unittest.TestCase):
    def test_a_body_is_as_long_as_its_head_says(self):
        head = b"HTTP/1.1 200 OK\r\nDate: x\r\ncontent-length: 12\r\n\r\n"
        self.assertEqual(eyes.body_of(bytearray(head + b"hello")), (12, 5))
        with self.assertRaises(OSError):
            eyes.body_of(head.replace(b"200", b"503"))


class Lines(unittest.TestCase):
    lines = command("lines")

    def test_what_the_test_tells_is_read(self):
        told = "running 1 test\nlines style=Text left=50001 written=50001 dropped=0 cpu_us=1.52\n"
        told += "x lines style=Json left=9 written=8 dropped=1 cpu_us=2\ntest x ... ok\n"
        found = self.lines.read(told)
        self.assertEqual(found["Text"], {"left": 50001, "written": 50001, "dropped": 0, "cpu_us": 1.52})
        self.assertEqual(found["Json"]["dropped"], 1)
        with self.assertRaises(proc.Failed):
            self.lines.read("test x ... ok")

    def test_lines_lost_in_the_median_round_break_the_promise(self):
        def rounds(*dropped):
            return [{"left": 100, "written": 100 - lost, "dropped": lost, "cpu_us": 1} for lost in dropped]

        taken = {(self.lines.PROMISED, 0, "Text"): rounds(0, 0, 5), (self.lines.PROMISED, 2, "Json"): rounds(0, 5, 5), (0, 0, "Json"): rounds(9)}
        self.assertEqual(self.lines.broken(taken), ["Json, every core burnt"])
        self.assertIn("| text nothing 100 (100–100) 100 (95–100) 0 (0–5.00)", " ".join(self.lines.report(taken).replace(" |", "").split()))


class Conformance(unittest.TestCase):
    conformance = command("conformance")

    def outcomes(self, **tests):
        return {path: place.Outcome({name: name not in failed for name in "abc"}) for path, failed in tests.items()}

    def test_a_path_agrees_if_the_same_tests_pass(self):
        outcomes = self.outcomes(direct="c", same="c", fewer="bc", others="b")
        agree = {path: outcome.agrees_with(outcomes["direct"]) for path, outcome in outcomes.items()}
        self.assertEqual(agree, {"direct": True, "same": True, "fewer": False, "others": False})
        self.assertFalse(place.Outcome(outcomes["direct"].tests, "it was too slow").agrees_with(outcomes["direct"]))

    def test_the_matrix_names_what_was_lost(self):
        options = argparse.Namespace(paths=["direct", "balance", "pen"])
        suite = argparse.Namespace(name="s", title="a suite")
        text = self.conformance.matrix(options, [(suite, "1.0", self.outcomes(direct="c", balance="c", pen="bc"))])
        self.assertIn("| a suite | 1.0 | 2 of 3 | 2 of 3 | **1 of 3** |\n", text)
        self.assertIn("- s, direct: not passed: c\n- s, pen: not passed: b\n", text)
        self.assertNotIn("- s, balance", text)

    def test_what_is_not_there_is_said_by_package(self):
        suite = argparse.Namespace(packages={"sh": "dash", "no-such-program": "a-package"}, files={"/no/such/file": "another", "/": "root"})
        self.assertLessEqual({"a-package", "another"}, set(self.conformance.lacking([suite], ["direct"])))
        self.assertNotIn("root", self.conformance.lacking([suite], ["direct"]))


if __name__ == "__main__":
    unittest.main()
