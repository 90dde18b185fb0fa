"""The program behind bench/compare: runs the rows in turns, judges, writes the report.

Knows: the command line, the order of measurements, where results go. Never: how a figure comes about.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import build
import growth
import micro
import network
import observe
import peers
import plots
import proc
import rows
import table
import targets

HERE = os.path.dirname(os.path.abspath(__file__))
MET, MISSED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


# How long --quick takes at most, in seconds.
QUICK_LIMIT = 60


def duration(text):
    """`90s`, `25m` or `1h` in seconds."""
    number, unit = text[:-1], text[-1:]
    if not number.isdigit() or unit not in "smh":
        raise argparse.ArgumentTypeError(f"'{text}' is no time; write it like 90s, 25m or 1h")
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def everybody():
    """All programs that can take part in the rows and in the growth sweeps."""
    return [*peers.PROGRAMS, peers.POLLING, peers.BEFORE]


def candidates(options):
    """All programs that can take part in the requested measurements."""
    return ["balance", *peers.OBSERVED] if options.observe else everybody()


def arguments():
    parser = argparse.ArgumentParser(
        prog="bench/compare",
        description="Measures balance against HAProxy, nginx, pen and a direct connection, in turns, on loopback.",
        epilog="Exit code: 0 all targets met, 1 some missed (they are listed), 2 it could not be run, 130 interrupted.",
    )
    parser.add_argument("--quick", action="store_true", help="some lines of each row, short, one round: a minute")
    parser.add_argument("--row", action="append", metavar="NAME", help="only this row or line (may be repeated)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds (default 5; 1 with --quick, 3 with --growth, 25 with --observe)")
    parser.add_argument(
        "--limit", type=duration, metavar="TIME", help="begin no measurement after so long, e.g. 25m (60s with --quick)"
    )
    parser.add_argument("--balance", metavar="PATH", help="the program to measure (default: built from this project)")
    parser.add_argument("--before", metavar="PATH|COMMIT", help="another build of balance, to compare with; a commit is built first")
    parser.add_argument(
        "--congestion",
        metavar="NAME",
        default="cubic",
        help="congestion control, set in a network namespace of its own (default cubic; system = the machine's)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="workers of every program (default 2)")
    parser.add_argument(
        "--programs",
        metavar="LIST",
        help="only these, with commas: " + ",".join(everybody()) + "; with --observe " + ",".join(peers.OBSERVED),
    )
    several = parser.add_mutually_exclusive_group()
    several.add_argument("--growth", action="store_true", help="how cost grows, instead of the rows")
    several.add_argument("--observe", action="store_true", help="what logs, metrics and the page cost, instead of the rows")
    parser.add_argument("--out", metavar="DIR", help="where results go (default bench/out)")
    parser.add_argument("--list", action="store_true", help="print the names of rows and lines")
    return parser.parse_args()


def usual_limit(options):
    """The default limit of a run in seconds; None: no limit."""
    return QUICK_LIMIT if options.quick and not options.growth and not options.observe and not options.row else None


def chosen(options):
    """The rows to run, each reduced to the lines asked for."""
    everything = growth.sweeps(options.quick) if options.growth else observe.ROWS if options.observe else rows.ROWS
    if options.list:
        for row in everything:
            print(f"{row.key}: {row.title}\n    " + " ".join(cell.key for cell in row.cells))
        sys.exit(MET)
    found = []
    for row in everything:
        wanted = [cell for cell in row.cells if not options.row or row.key in options.row or cell.key in options.row]
        if options.quick and not options.row:
            wanted = [cell for cell in wanted if cell.quick]
        skip = row.slow and options.quick and not options.row
        if row.key == "pick" and not os.path.exists(micro.SOURCE):
            skip = True
        if wanted and not skip:
            if options.quick and row.slowish:
                row = dataclasses.replace(row, programs=[p for p in row.programs if p in ("balance", "haproxy")])
            found.append(dataclasses.replace(row, cells=wanted))
    names = {name for row in everything for name in [row.key, *(cell.key for cell in row.cells)]}
    unknown = [name for name in options.row or [] if name not in names]
    if unknown:
        raise proc.Failed(f"unknown row {unknown[0]} (see --list)")
    return found


def takes_part(program, row):
    """An earlier build is measured beside balance wherever a figure of balance may have changed."""
    return program in row.programs or (program == peers.BEFORE and "balance" in row.programs and row.is_old)


def plan(selection, programs, rounds, by_lot=False):
    """(round, row, cell, program): every program takes its turn at every line, each round in another order.

    By lot, so that what one leaves behind (pages to be written, say) meets another each time.
    """
    for turn in range(rounds):
        for row in selection:
            if row.once and turn:
                continue
            taking_part = [program for program in programs if takes_part(program, row)]
            for cell in row.cells:
                shift = turn % len(taking_part) if taking_part else 0
                order = taking_part[shift:] + taking_part[:shift]
                if by_lot:
                    random.shuffle(order)
                for program in order:
                    yield turn, row, cell, program


def brief(row, figures):
    """One measurement as one line."""
    present = [metric for metric in row.metrics if isinstance(figures.get(metric.key), (int, float))]
    shown = [f"{table.number(figures[metric.key])} {metric.unit}" for metric in present]
    return ", ".join(shown) or f"{len(figures)} figures"


def measure(bench, steps, samples, rounds, limit):
    """Runs the plan; notes failures and goes on. Returns for how many steps there was time."""
    begin = time.monotonic()
    for done, (turn, row, cell, program) in enumerate(steps):
        if limit and time.monotonic() - begin > limit:
            print(f"time is up: {done} of {len(steps)} measurements made", file=sys.stderr)
            return done
        bench.round = turn
        left = (time.monotonic() - begin) / done * (len(steps) - done) if done else 0
        head = f"[{done + 1:>{len(str(len(steps)))}}/{len(steps)}] round {turn + 1}/{rounds}"
        head += f"  {int(left) // 60:2}:{int(left) % 60:02} left  {cell.key:<18} {peers.TITLES[program]:<8} "
        print(head, end="", file=sys.stderr, flush=True)
        try:
            figures = row.measure(bench, program, *cell.parameters)
        except (proc.Failed, OSError, ValueError, KeyError, subprocess.SubprocessError) as problem:
            samples.failures.append(f"{cell.key}, {peers.TITLES[program]}, round {turn + 1}: {problem}")
            print(f"failed: {problem}", file=sys.stderr)
            continue
        if row.key == "pick":
            for key, each in figures.items():
                samples.add(key, program, each)
        else:
            samples.add(cell.key, program, figures, turn)
        print(brief(row, figures), file=sys.stderr)
    return len(steps)


def facts(options, rounds, scale, workers, versions):
    """Where and how the measurement was done."""
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    try:
        argv = ["git", "-C", HERE, "describe", "--always", "--dirty"]
        commit = subprocess.run(argv, capture_output=True, text=True).stdout
    except OSError:
        commit = ""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, commit {commit.strip() or '?'}",
        f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Linux {platform.release()}, loopback, "
        f"{proc.raise_descriptor_limit()} descriptors per process",
        f"{named}; {workers} workers each (pen has one)",
        network.about(options.congestion),
        f"{rounds} rounds, every program taking turns"
        + (f"; quick: {scale.idle} idle connections, short runs, not for the record" if options.quick else ""),
        *([f"only {', '.join(options.row)}"] if options.row else []),
        f"load average at the start {os.getloadavg()[0]:.2f}",
    ]


def triple(values):
    return (min(values), statistics.median(values), max(values)) if values else None


def draw(selection, samples, programs, directory):
    """Writes a chart for each figure of each row; returns [(name, file)]."""
    drawn = []
    for row in selection:
        series = {program: peers.TITLES[program] for program in programs if takes_part(program, row)}
        cells = table.cells_of(row, samples)
        for metric in (metric for metric in row.metrics if metric.plotted):
            values = [{p: triple(samples.all(key, metric.key, p)) for p in series} for key, _ in cells]
            present = {p: name for p, name in series.items() if any(group[p] for group in values)}
            if not present:
                continue
            better = "more is better" if metric.more_is_better else "less is better"
            title = f"{row.title}: {metric.name} ({better})"
            if row.key == "pick":
                svg = draw_picks(title, metric, samples)
            elif row.sweep and len(cells) > 1:
                xs = [cell.parameters[0] for cell in row.cells]
                points = {p: [(x, *group[p]) for x, group in zip(xs, values) if group[p]] for p in present}
                svg = plots.lines(title, metric.unit, row.axis, points, present, metric.log)
            else:
                svg = plots.bars(title, metric.unit, [name for _, name in cells], present, values, row.axis)
            file = f"{row.key}-{metric.key}.svg"
            with open(os.path.join(directory, file), "w") as out:
                out.write(svg)
            drawn.append((title, file))
    return drawn


def draw_picks(title, metric, samples):
    """One line for each policy over the number of channels."""
    points = {}
    for key in samples.values:
        if key.startswith("pick-"):
            _, policy, count = key.split("-")
            values = samples.all(key, metric.key, "balance")
            points.setdefault(policy, []).append((int(count), *triple(values)))
    points = {policy: sorted(line) for policy, line in points.items()}
    return plots.lines(title, metric.unit, "channels", points, {policy: policy for policy in points})


def finish(options, selection, samples, programs, about, workers, directory):
    """Judges, writes the files, prints the page; returns the missed targets."""
    targets.derive(samples)
    wanted = []
    keys = {cell.key for row in selection for cell in row.cells}
    if options.observe:
        wanted = [targets.judge(samples, target) for target in targets.of_observing() if target.cell in keys]
    elif not options.growth and "balance" in programs:
        picks = any(row.key == "pick" for row in selection)
        mine = [t for t in targets.targets(workers) if t.cell in keys or (picks and t.cell.startswith("pick-"))]
        if options.quick:
            # Too short for clock ticks to tell user from system time.
            mine = [target for target in mine if target.metric != "user_share"]
        wanted = [targets.judge(samples, target) for target in mine]
    name = "growth" if options.growth else "observe" if options.observe else "result"
    drawn = draw(selection, samples, programs, directory)
    verdicts = table.verdicts(selection, samples, wanted) if wanted else ""
    title = {"growth": "How cost grows", "observe": "What it costs to look", "result": "Side by side"}[name]
    columns = {row.key: [program for program in programs if takes_part(program, row)] for row in selection}
    shown = table.figures(selection, samples, columns)
    against = table.against(selection, samples, peers.BARE, peers.AGAIN) if options.observe else ""
    page = table.report(title, about, verdicts, shown, samples.failures, drawn, against)
    with open(os.path.join(directory, name + ".md"), "w") as out:
        out.write(page)
    raw = {
        "about": about,
        "samples": samples.values,
        "rounds": {" ".join(key): values for key, values in samples.rounds.items()},
        "notes": samples.notes,
        "failures": samples.failures,
        "targets": [
            {**dataclasses.asdict(v.target), "ratio": v.ratio, "peer": v.against, "met": v.met} for v in wanted
        ],
    }
    with open(os.path.join(directory, name + ".json"), "w") as out:
        json.dump(raw, out, indent=1, ensure_ascii=False)
    print(page)
    print(f"written: {os.path.relpath(directory)}/{name}.md, {name}.json, {len(drawn)} plots", file=sys.stderr)
    return [verdict for verdict in wanted if not verdict.met]


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    options = arguments()
    selection = chosen(options)
    programs = options.programs.split(",") if options.programs else candidates(options)
    if not set(programs) <= set(candidates(options)):
        raise proc.Failed("--programs takes " + ",".join(candidates(options)))
    if not options.before:
        programs = [program for program in programs if program != peers.BEFORE]
    balance = os.path.abspath(options.balance or build.release())
    if not os.access(balance, os.X_OK):
        raise proc.Failed(f"{balance} cannot be executed")
    before = build.earlier(options.before) if options.before else None
    if before and not os.access(before, os.X_OK):
        raise proc.Failed(f"{before} cannot be executed")
    scale = rows.QUICK if options.quick else observe.SCALE if options.observe else rows.FULL
    rounds = options.rounds or (3 if options.growth and not options.quick else scale.rounds)
    workers = options.workers or min(2, os.cpu_count() or 1)
    directory = os.path.abspath(options.out or os.path.join(HERE, "out"))
    os.makedirs(directory, exist_ok=True)
    network.enter(options.congestion)
    proc.raise_descriptor_limit()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupt)

    about = facts(options, rounds, scale, workers, peers.versions(balance))
    scratch = tempfile.mkdtemp(prefix="balance-bench-")
    # The web server's workers may run as another user.
    os.chmod(scratch, 0o755)
    children = proc.Children(scratch)
    samples = targets.Samples()
    interrupted = False
    company = proc.Company()
    try:
        bench = rows.Bench(children, peers.Programs(children, scratch, balance, workers, before), scale, scratch)
        steps = list(plan(selection, programs, rounds, by_lot=options.observe))
        made = measure(bench, steps, samples, rounds, options.limit or usual_limit(options))
        if made < len(steps):
            about.append(f"TIME LIMIT: {made} of {len(steps)} measurements made")
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted: what was measured so far follows", file=sys.stderr)
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        children.stop_all()
        shutil.rmtree(scratch, ignore_errors=True)
    others, stolen = company.shares()
    about.append(f"meanwhile {others:.0f} % of the processors went to other programs, {stolen:.0f} % to the hypervisor")
    if interrupted:
        about.append("INTERRUPTED: not all rounds were made")
    missed = finish(options, selection, samples, programs, about, workers, directory)
    if interrupted:
        return INTERRUPTED
    if missed:
        print(f"{len(missed)} targets missed:", file=sys.stderr)
        for verdict in missed:
            got = "not measured" if verdict.ratio is None else f"got {table.ratio_of(verdict)}"
            print(f"  {verdict.target.cell} {verdict.target.metric} {verdict.target}: {got}", file=sys.stderr)
        return MISSED
    return MET


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (proc.Failed, OSError) as problem:
        print(f"bench/compare: {problem}", file=sys.stderr)
        sys.exit(UNUSABLE)
