"""What monitoring costs: the rows of `bench/compare --observe`.

Knows: how balance is watched, logged and flooded, and under which load. Never: how a single load is made beyond what load.py offers.
"""

import contextlib
import os
import random
import socket
import statistics
import time

import eyes
import load
import peers
import proc
from rows import Cell, Cost, Metric, Row, Scale

HERE = os.path.dirname(os.path.abspath(__file__))
FLOOD = os.path.join(HERE, "flood.lua")
# As many as the HTTP port has places for.
FLOODING = 64
MANY_CHANNELS = 1_000
SCRAPES = 100
# Short and many: what disturbs the machine for a while is then in few of them, or in both that are compared.
SCALE = Scale(25, {"seconds": 1}, 40_000, 1, 0, 0, 0, 0)


class Watched:
    """A process of balance, the programs that monitor it, and where its log goes."""

    def __init__(self, proxy, http=None, log=None):
        self.proxy, self.http, self.log = proxy, http, log

    def lines(self):
        """How many lines the log has after the process has ended."""
        with open(self.log, "rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


@contextlib.contextmanager
def running(bench, program, channels):
    """Starts balance with the options that `program` stands for."""
    with contextlib.ExitStack() as stack:
        # Of its own for each: two of them may be there for a moment.
        directory = os.path.join(bench.directory, f"{program}-{random.randrange(1 << 32):x}")
        os.mkdir(directory)
        options, http, log = [], None, None
        if program in ("balance", "watched", "scraped", "flooded", "elsewhere"):
            http = proc.free_port()
        if program not in (peers.BARE, peers.AGAIN, "elsewhere") and http:
            options += ["--http", str(http)]
        if program == "watched":
            options += ["--event-program", "/bin/true", "--state", os.path.join(directory, "state"), "--log-time"]
        if program in ("text", "json"):
            log = os.path.join(directory, "access.log")
            options += ["--access-log", log, "--access-log-format", program]
        if program == "full":
            options += ["--access-log", "/dev/full"]
        if program == "stalled":
            fifo = os.path.join(directory, "fifo")
            os.mkfifo(fifo)
            stack.callback(os.close, os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
            options += ["--access-log", fifo]
        proxy = stack.enter_context(bench.programs.balance_with(options, channels))
        if program == "elsewhere":
            stack.enter_context(bench.programs.balance_with(["--http", str(http)], channels))
        yield Watched(proxy, http, log)


@contextlib.contextmanager
def looks(bench, program, watched):
    """Monitors balance while the load runs; the dict that this yields gets the results."""
    with contextlib.ExitStack() as stack:
        told = {}
        if program == "watched":
            more = (bench.programs.balance, watched.proxy.port)
            stack.enter_context(load.looked_at(bench.children, "watch", watched.http, *more))
        elif program == "scraped":
            stack.enter_context(load.looked_at(bench.children, "scrape", watched.http))
        elif program in ("flooded", "elsewhere"):
            told = stack.enter_context(load.flood(bench.children, watched.http, FLOODING, FLOOD))
        yield told


class Price(Cost):
    """The CPU time of balance and of its thread that writes the log."""

    def __init__(self, pid):
        super().__init__(pid)
        self.log_begin = proc.thread_cpu(pid, "access")

    def per(self, amount, key, factor):
        used = proc.thread_cpu(self.pid, "access")
        found = super().per(amount, key, factor)
        found.pop("user_share", None)
        return {**found, "log_us": factor * (used - self.log_begin) / amount} if used else found


# --- the functions ----------------------------------------------------------------------------------------------------


def connections(bench, program, clients, count=1):
    """wrk with a new connection for each request, to `count` channels."""
    with running(bench, program, [bench.server("web")] * count) as watched:
        proxy = watched.proxy
        if count > 1:
            warm(proxy.port, count, b"GET /index.html HTTP/1.0\r\n\r\n")
        with looks(bench, program, watched) as told:
            cost = Price(proxy.pid)
            result = load.wrk(bench.children, proxy.port, clients, bench.scale.wrk_seconds)
            if result["errors"] > result["connections"] / 100:
                raise proc.Failed(f"{result['errors']} errors in {result['connections']} connections")
            figures = {"rate": result["rate"], "p99_us": result["p99_us"]}
            figures.update(cost.per(result["connections"], "cpu_us", 1e6))
    if told:
        figures["flood"] = told["rate"]
    if watched.log:
        # Who is cut off at the end has a line as well.
        figures["written"] = 100 * min(1, watched.lines() / result["connections"])
    return figures


def requests(bench, program, clients, count=1):
    """redis-benchmark PING on lasting connections, to `count` channels."""
    with running(bench, program, [bench.server("redis")] * count) as watched:
        proxy = watched.proxy
        load.ping(proxy.port, 10)
        if count > 1:
            warm(proxy.port, count, b"PING\r\n")
        with looks(bench, program, watched) as told:
            cost = Cost(proxy.pid)
            figures = load.redis(bench.children, proxy.port, clients, bench.scale.requests)
            figures.update(cost.per(bench.scale.requests, "cpu_us", 1e6))
    if told:
        figures["flood"] = told["rate"]
    return figures


def system_calls(bench, program, clients):
    """strace -c: a traced program is slower, but the count is the same even on a busy machine."""
    with running(bench, program, [bench.server("web")]) as watched:
        load.wrk(bench.children, watched.proxy.port, clients, 1)
        with load.counted_calls(bench.children, bench.directory, watched.proxy.pid) as calls:
            count = load.wrk(bench.children, watched.proxy.port, clients, 1)["connections"]
        most = sorted(calls.items(), key=lambda item: -item[1])[:12]
        note = ", ".join(f"{name} {number / count:.2f}" for name, number in most if number / count >= 0.05)
        return {"calls": sum(calls.values()) / count, "note": note}


def bulk(bench, program, streams):
    """iperf3, server to client."""
    channel, sink = bench.programs.sink()
    try:
        with running(bench, program, [channel]) as watched, looks(bench, program, watched):
            cost = Cost(watched.proxy.pid)
            result = load.iperf(bench.children, watched.proxy.port, streams, True, **bench.scale.bulk)
            return {"gbits": result["gbits"], **cost.per(result["bytes"] / 1e9, "cpu_ms", 1e3)}
    finally:
        bench.children.stop(sink)


def scrape(bench, program, beside):
    """Scrapes of many channels, one after another: how long each takes until its last byte has arrived."""
    kind = "web" if beside == "connections" else "redis"
    with running(bench, program, [bench.server(kind)] * MANY_CHANNELS) as watched:
        port = watched.proxy.port
        warm(port, MANY_CHANNELS, b"PING\r\n" if kind == "redis" else b"GET /index.html HTTP/1.0\r\n\r\n")
        with busy(bench, beside, port):
            metrics = eyes.Looking(watched.http, "/metrics")
            metrics.look()
            begin = proc.thread_cpu(watched.proxy.pid, "http")
            looked = [metrics.look() for _ in range(SCRAPES)]
            used = proc.thread_cpu(watched.proxy.pid, "http") - begin
    times = sorted(1000 * seconds for seconds, _ in looked)
    return {
        "p50_ms": statistics.median(times),
        "p99_ms": times[len(times) * 99 // 100],
        "cpu_ms": 1000 * used / SCRAPES,
        "mb": looked[-1][1] / 1e6,
    }


@contextlib.contextmanager
def busy(bench, how, port):
    """A load for as long as the block lasts."""
    if how == "quiet":
        yield
        return
    if how == "requests":
        argv = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-t", "ping_mbulk", "-c", "50", "-l", "-q"]
    else:
        argv = ["wrk", "-t", "2", "-c", "32", "-d", "600s", "-H", "Connection: close", f"http://127.0.0.1:{port}/index.html"]
    child = bench.children.start(argv)
    try:
        time.sleep(0.5)
        yield
        if child.poll() is not None:
            raise proc.Failed(f"{argv[0]} ended")
    finally:
        bench.children.stop(child)


def warm(port, count, question):
    """One client for each channel, so that all channels have something to report."""
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(question)
            if not client.recv(64):
                raise proc.Failed("a client got no answer")


# --- the list ---------------------------------------------------------------------------------------------------------

_ALL = [peers.BARE, peers.AGAIN, "watched", "text", "json", "stalled", "full"]
_MANY = [peers.BARE, peers.AGAIN, "scraped", "flooded", "elsewhere"]
_FLOOD = Metric("flood", "answers to the flood", "1/s", True, plotted=False)

_REQUESTS = [
    Metric("rps", "requests", "req/s", True, plotted=False),
    Metric("p99_us", "p99", "µs", plotted=False),
    Metric("cpu_us", "CPU of balance", "µs/request", plotted=False),
]
_CONNECTIONS = [
    Metric("rate", "connections", "conn/s", True, plotted=False),
    Metric("p99_us", "p99", "µs", plotted=False),
    Metric("cpu_us", "CPU of balance", "µs/connection", plotted=False),
]

ROWS = [
    Row(
        "connections",
        "new connections, wrk",
        [Cell("connections-32", "32 clients", (32,))],
        [
            *_CONNECTIONS,
            Metric("log_us", "of that the log's thread", "µs/connection", plotted=False),
            Metric("written", "lines that are in the log", "%", True, plotted=False),
        ],
        connections,
        programs=_ALL,
    ),
    Row(
        "requests",
        "requests on connections that stay, redis-benchmark PING",
        [Cell("requests-50", "50 clients", (50,))],
        _REQUESTS,
        requests,
        programs=_ALL,
    ),
    Row(
        "bulk",
        "bulk, iperf3",
        [Cell("bulk-2-down", "2 ↓", (2,))],
        [
            Metric("gbits", "throughput", "Gbit/s", True, plotted=False),
            Metric("cpu_ms", "CPU of balance", "ms/GB", plotted=False),
        ],
        bulk,
        programs=_ALL,
    ),
    Row(
        "calls",
        "system calls of new connections (strace -c)",
        [Cell("calls-connection", "32 clients", (32,))],
        [Metric("calls", "system calls", "per connection", plotted=False)],
        system_calls,
        programs=_ALL,
        once=True,
    ),
    Row(
        "many-requests",
        "1 000 channels, requests on connections that stay",
        [Cell("many-requests-50", "50 clients", (50, MANY_CHANNELS))],
        [*_REQUESTS, _FLOOD],
        requests,
        programs=_MANY,
    ),
    Row(
        "many-connections",
        "1 000 channels, new connections",
        [Cell("many-connections-32", "32 clients", (32, MANY_CHANNELS))],
        [*_CONNECTIONS, _FLOOD],
        connections,
        programs=_MANY,
    ),
    Row(
        "scrape",
        "a scrape of 1 000 channels",
        [
            Cell("scrape-quiet", "without traffic", ("quiet",)),
            Cell("scrape-requests", "beside requests of 50 clients", ("requests",)),
            Cell("scrape-connections", "beside new connections of 32 clients", ("connections",)),
        ],
        [
            Metric("p50_ms", "until the last byte, p50", "ms", plotted=False),
            Metric("p99_ms", "until the last byte, p99", "ms", plotted=False),
            Metric("cpu_ms", "CPU of the HTTP thread", "ms", plotted=False),
            Metric("mb", "size", "MB", plotted=False),
        ],
        scrape,
        programs=["balance"],
    ),
]
