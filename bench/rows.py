"""The rows of the comparison: what is measured, one function per row.

Knows: which load goes through which program, which figures come out. Never: targets, how figures are shown.
"""

import contextlib
import statistics
import subprocess
import time
from dataclasses import dataclass, field

import load
import micro
import peers
import proc


@dataclass(frozen=True)
class Metric:
    """A figure: its key, name and unit, and whether a higher value is better."""

    key: str
    name: str
    unit: str
    more_is_better: bool = False
    plotted: bool = True
    # Drawn on a logarithmic axis, where the figure spans decades.
    log: bool = False


@dataclass(frozen=True)
class Cell:
    """One line of the table: a row with its parameters."""

    key: str
    title: str
    parameters: tuple = ()
    # Part of the quick mode.
    quick: bool = True


@dataclass(frozen=True)
class Row:
    """A kind of load."""

    key: str
    title: str
    cells: list
    metrics: list
    measure: object
    programs: list = field(default_factory=lambda: list(peers.PROGRAMS))
    # Measured in the first round only: not a matter of time, or not a target.
    once: bool = False
    # Not part of the quick mode, or only with balance and HAProxy.
    slow: bool = False
    slowish: bool = False
    # What the lines differ in, as the plots say it.
    axis: str = ""
    # Drawn as lines over the cells' first parameter instead of as bars.
    sweep: bool = False
    # An earlier build of balance can do it, too.
    is_old: bool = True


@dataclass(frozen=True)
class Scale:
    """How long measurements run."""

    rounds: int
    bulk: dict
    requests: int
    wrk_seconds: int
    idle: int
    pings: int
    starts: int
    traced_requests: int


FULL = Scale(5, {"seconds": 4}, 150_000, 4, 9_000, 20_000, 5, 5_000)
QUICK = Scale(1, {"size": 200_000_000}, 6_000, 1, 1_000, 1_000, 1, 1_000)


class Bench:
    """What a row uses: children, programs, servers, scale."""

    def __init__(self, children, programs, scale, directory):
        self.children, self.programs, self.scale, self.directory = children, programs, scale, directory
        self._servers = {}
        self.round = 0

    def server(self, kind):
        """The port of a server that is started at its first use and runs until the end."""
        if kind not in self._servers:
            self._servers[kind] = getattr(self.programs, kind)()
        return self._servers[kind]

    def proxy(self, program, channels, is_lasting):
        """A fresh process of a program, or the one that runs for the whole comparison."""
        return (self.programs.lasting if is_lasting else self.programs.start)(program, channels)

    def cost(self, running):
        """Starts to count the CPU time of a proxy."""
        return Cost(running.pid)


class Cost:
    """The CPU time of a proxy since this object was created."""

    def __init__(self, pid):
        self.pid = pid
        self.begin = proc.cpu(pid) if pid else None

    def per(self, amount, key, factor):
        """{key: factor x seconds per amount, "user_share": ...}; empty without a proxy."""
        if not self.pid:
            return {}
        user, system, both = (end - begin for begin, end in zip(self.begin, proc.cpu(self.pid)))
        figures = {key: factor * both / amount}
        # Of a few ticks the split says nothing.
        if user + system >= 20 / proc.TICKS:
            figures["user_share"] = 100 * user / (user + system)
        return figures


# --- the functions ----------------------------------------------------------------------------------------------------


def bulk(bench, program, streams, down, is_lasting=False):
    """iperf3 with this number of streams, in one direction."""
    sink = None
    if is_lasting:
        channel = bench.server("lasting_sink")
    else:
        channel, sink = bench.programs.sink()
    try:
        with bench.proxy(program, [channel], is_lasting) as proxy:
            cost = bench.cost(proxy)
            result = load.iperf(bench.children, proxy.port, streams, down, **bench.scale.bulk)
            return {"gbits": result["gbits"], **cost.per(result["bytes"] / 1e9, "cpu_ms", 1e3)}
    finally:
        if sink:
            bench.children.stop(sink)


def requests(bench, program, clients, is_lasting=False, neighbours=0):
    """redis-benchmark PING with one request in flight per client, beside programs that each use a core."""
    # A few clients are slow: as long for them as for many.
    count = min(bench.scale.requests, 15_000 * clients)
    with bench.proxy(program, [bench.server("redis")], is_lasting) as proxy, load.burning(bench.children, neighbours):
        load.ping(proxy.port, 10)
        cost = bench.cost(proxy)
        figures = load.redis(bench.children, proxy.port, clients, count)
        return {**figures, **cost.per(count, "cpu_us", 1e6)}


def latency(bench, program):
    """One client. The direct connection is measured together with each program, so that both see the same conditions."""
    server = bench.server("redis")
    with bench.programs.start(program, [server]) as proxy:
        direct = load.ping(server, bench.scale.pings)
        if program == "direct":
            return direct
        through = load.ping(proxy.port, bench.scale.pings)
        return {**through, "added_us": through["p50_us"] - direct["p50_us"]}


def connections(bench, program, clients, is_lasting=False):
    """wrk with a new connection for each request."""
    with bench.proxy(program, [bench.server("web")], is_lasting) as proxy:
        cost = bench.cost(proxy)
        result = load.wrk(bench.children, proxy.port, clients, bench.scale.wrk_seconds)
        if result["errors"] > result["connections"] / 100:
            raise proc.Failed(f"{result['errors']} errors in {result['connections']} connections")
        figures = {"rate": result["rate"], "p99_us": result["p99_us"]}
        return {**figures, **cost.per(result["connections"], "cpu_us", 1e6)}


def greetings(bench, program, task, served, host="127.0.0.1", scheme="http"):
    """New connections through a proxy that does more than relay bytes, beside the same proxy that only relays them.

    Both run the whole time and take turns every second, so that both see the same conditions. A header costs its receiver more
    than its sender, so where the proxy sends none, the clients do.
    """
    channels = {name: bench.server(served) for name in (peers.PLAIN, task)}
    # As many bytes of Lua for both.
    scripts = {peers.PLAIN: "header.lua", task: "plain.lua"} if task == peers.HEADER else {}
    turns = [peers.PLAIN, task, task, peers.PLAIN]
    sums = {name: {"connections": 0, "cpu": 0.0} for name in channels}
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(bench.programs.start(program, [channel], task=name))
            for name, channel in channels.items()
        }
        for turn in range(max(2, bench.scale.wrk_seconds)):
            for name in turns[:2] if turn % 2 else turns[2:]:
                proxy = running[name]
                begin = proc.cpu(proxy.pid)[2]
                result = load.wrk(bench.children, proxy.port, 32, 1, host, scheme, scripts.get(name))
                if result["errors"] > result["connections"] / 100 + 2:
                    raise proc.Failed(f"{result['errors']} errors in {result['connections']} connections")
                sums[name]["connections"] += result["connections"]
                sums[name]["cpu"] += proc.cpu(proxy.pid)[2] - begin
    seconds = max(2, bench.scale.wrk_seconds)
    rates = {name: each["connections"] / seconds for name, each in sums.items()}
    figures = {"rate": rates[task], "rate_plain": rates[peers.PLAIN], "kept": rates[task] / rates[peers.PLAIN]}
    figures["cpu_us"], figures["cpu_plain_us"] = (
        1e6 * sums[name]["cpu"] / sums[name]["connections"] for name in (task, peers.PLAIN)
    )
    return figures


def idle(bench, program):
    """Memory of connections that were used once and are idle since."""
    with bench.programs.start(program, [bench.server("quiet")]) as proxy:
        load.ping(proxy.port, 10)
        before = proc.pss(proxy.pid)
        with load.held(bench.children, proxy.port, bench.scale.idle):
            time.sleep(0.2)
            grown = proc.pss(proxy.pid) - before
            # pen takes everything at the start; what it gives back meanwhile is not a negative price.
            return {"pss": max(0, grown) / bench.scale.idle, "base_mib": before / 2**20}


def busy_among_idle(bench, program):
    """50 busy clients with and without idle connections in the proxy; the server holds the same number of idle ones both times."""
    server = bench.server("redis")
    rates = {}
    # The order alternates with the round, so that neither is always the first.
    for where in ["direct", "proxy"] if bench.round % 2 else ["proxy", "direct"]:
        with bench.programs.start(program, [server]) as proxy:
            port = proxy.port if where == "proxy" else server
            with load.held(bench.children, port, bench.scale.idle):
                rates[where] = load.redis(bench.children, proxy.port, 50, max(bench.scale.requests, 25_000))["rps"]
    return {"rps": rates["proxy"], "rps_alone": rates["direct"], "kept": rates["proxy"] / rates["direct"]}


def start(bench, program):
    """The time from exec to the first answer through the proxy."""
    server = bench.server("redis")
    times = []
    for _ in range(bench.scale.starts):
        with bench.programs.start(program, [server], wait=False) as proxy:
            times.append(1000 * (load.first_answer(proxy.port, proxy.begin + 10) - proxy.begin))
    return {"ms": statistics.median(times)}


def fairness(bench, program):
    """8 bulk streams: how they are distributed over the workers, and how much their totals differ."""
    channel, sink = bench.programs.sink()
    try:
        with bench.programs.start(program, [channel]) as proxy:
            argv = load.iperf_argv(proxy.port, 8, seconds=bench.scale.bulk.get("seconds", 2))
            client = bench.children.start(argv, stdout=subprocess.PIPE, text=True)
            pollers = []
            # Complete with the control connection and the eight. Looking is not free, so not too often.
            while proxy.pid and client.poll() is None and sum(map(len, pollers)) < 9:
                seen = proc.clients_per_poller(proxy.pid, proxy.port)
                pollers = max(pollers, seen, key=lambda lists: sum(map(len, lists)))
                time.sleep(0.05)
            text, _ = client.communicate(timeout=60)
            bench.children.stop(client)
            result = load.iperf_result(text)
    finally:
        bench.children.stop(sink)
    mean = statistics.mean(result["rates"])
    figures = {"slowest": min(result["rates"]) / mean}
    carried = [len(set(result["ports"]).intersection(clients)) for clients in pollers]
    # HAProxy tells epoll about a connection only once it had to wait for it; half a picture is none.
    if sum(carried) == 8:
        figures["most"] = max(carried)
    return figures


def system_calls(bench, program, clients):
    """strace -c: for information only, since a traced program runs slower and so behaves differently."""
    kind = "redis" if clients == "request" else "web"
    with bench.programs.start(program, [bench.server(kind)]) as proxy:
        load.first_answer(proxy.port, time.monotonic() + 5)
        with load.counted_calls(bench.children, bench.directory, proxy.pid) as calls:
            if clients == "request":
                count = bench.scale.traced_requests
                load.redis(bench.children, proxy.port, 50, count)
            else:
                count = load.wrk(bench.children, proxy.port, 32, 1)["connections"]
        most = sorted(calls.items(), key=lambda item: -item[1])[:10]
        note = ", ".join(f"{name} {number / count:.2f}" for name, number in most if number / count >= 0.05)
        return {"calls": sum(calls.values()) / count, "note": note}


def pick(bench, program):
    """The micro-benchmark of one pick, run by cargo: figures for all cells at once."""
    del program
    return micro.picks(bench.children)


# --- the list ---------------------------------------------------------------------------------------------------------

_CPU_SHARE = Metric("user_share", "user part of the CPU time", "%", plotted=False)

ROWS = [
    Row(
        "bulk",
        "bulk, iperf3",
        [
            Cell(
                f"bulk-{streams}-{'down' if down else 'up'}",
                f"{streams} {'↓' if down else '↑'}",
                (streams, down),
                quick=(streams, down) in ((1, False), (8, True)),
            )
            for streams in (1, 2, 8)
            for down in (False, True)
        ]
        + [Cell("bulk-2-down-lasting", "2 ↓, lasting", (2, True, True), quick=False)],
        [Metric("gbits", "throughput", "Gbit/s", True), Metric("cpu_ms", "CPU of the proxy", "ms/GB"), _CPU_SHARE],
        bulk,
        axis="streams, ↑ client to server, ↓ server to client",
    ),
    Row(
        "requests",
        "request/response, redis-benchmark PING",
        [Cell(f"requests-{n}", f"{n} clients", (n,), quick=n == 50) for n in (50, 500)]
        + [
            Cell(
                f"requests-{n}-lasting" + ("-beside" if beside else ""),
                f"{n} client{'s' if n > 1 else ''}, lasting" + (", a core burnt" if beside else ""),
                (n, True, beside),
                quick=False,
            )
            for beside in (0, 1)
            for n in (1, 8, 50, 500)
        ],
        [
            Metric("rps", "requests", "req/s", True),
            Metric("p50_us", "p50", "µs"),
            Metric("p99_us", "p99", "µs"),
            Metric("cpu_us", "CPU of the proxy", "µs/request"),
        ],
        requests,
        programs=[*peers.PROGRAMS, peers.POLLING],
    ),
    Row(
        "latency",
        "request/response, 1 client",
        [Cell("latency", "1 client")],
        [
            Metric("added_us", "added latency", "µs"),
            Metric("p50_us", "p50", "µs", plotted=False),
            Metric("p99_us", "p99", "µs", plotted=False),
        ],
        latency,
    ),
    Row(
        "connections",
        "new connections, wrk",
        [Cell(f"connections-{n}", f"{n} clients", (n,), quick=n == 32) for n in (32, 256)]
        + [Cell("connections-32-lasting", "32 clients, lasting", (32, True), quick=False)],
        [
            Metric("rate", "connections", "conn/s", True),
            Metric("cpu_us", "CPU of the proxy", "µs/connection"),
            Metric("p99_us", "p99", "µs", plotted=False),
        ],
        connections,
    ),
    *(
        Row(
            key,
            title,
            [Cell(key, "32 clients", parameters)],
            [
                Metric("kept", "connections against without it", "x", True),
                Metric("rate", "connections", "conn/s", True),
                Metric("rate_plain", "connections without it", "conn/s", True, plotted=False),
                Metric("cpu_us", "CPU of the proxy", "µs/connection"),
                Metric("cpu_plain_us", "CPU of the proxy without it", "µs/connection", plotted=False),
            ],
            greetings,
            programs=programs,
            slowish=True,
            is_old=False,
        )
        for key, title, parameters, programs in [
            (
                "header",
                "new connections with PROXY headers, wrk",
                (peers.HEADER, "web_behind_proxies"),
                ["balance", "haproxy", "nginx"],
            ),
            (
                "name",
                "new TLS connections by name, wrk",
                (peers.NAME, "web_with_tls", peers.ASKED, "https"),
                ["balance", "haproxy", "nginx"],
            ),
            ("http", "new connections that speak HTTP, wrk", (peers.HTTP, "web"), ["balance", "haproxy"]),
        ]
    ),
    Row(
        "idle",
        "idle connections",
        [Cell("idle", "idle")],
        [Metric("pss", "memory (PSS)", "B/connection"), Metric("base_mib", "before the first", "MiB", plotted=False)],
        idle,
        programs=peers.PROXIES,
    ),
    Row(
        "busy",
        "50 busy among idle ones",
        [Cell("busy", "idle + 50 busy")],
        [
            Metric("kept", "requests against without idle ones", "x", True),
            Metric("rps", "requests", "req/s", True, plotted=False),
            Metric("rps_alone", "requests without idle ones", "req/s", True, plotted=False),
        ],
        busy_among_idle,
        programs=peers.PROXIES,
        slowish=True,
    ),
    Row(
        "start",
        "start",
        [Cell("start", "exec to answer")],
        [Metric("ms", "exec to first answer through it", "ms")],
        start,
        programs=peers.PROXIES,
    ),
    Row(
        "fairness",
        "8 bulk streams",
        [Cell("fairness", "8 streams")],
        [
            Metric("most", "streams on the fullest worker", "streams"),
            Metric("slowest", "slowest stream against the mean", "x", True),
        ],
        fairness,
        slowish=True,
    ),
    Row(
        "calls",
        "system calls (strace -c)",
        [Cell("calls-request", "per request", ("request",)), Cell("calls-connection", "per connection", ("conn",))],
        [Metric("calls", "system calls", "calls")],
        system_calls,
        programs=peers.PROXIES,
        once=True,
        slowish=True,
    ),
    Row(
        "pick",
        "one pick of sched",
        [Cell("pick", "cargo bench --bench schedule")],
        [Metric("ns", "one pick", "ns")],
        pick,
        programs=["balance"],
        once=True,
        slow=True,
        is_old=False,
    ),
]
