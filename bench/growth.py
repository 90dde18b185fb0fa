"""How cost grows: the sweeps of `bench/compare --growth`.

Knows: what is varied, over which values. Never: how a single point is measured beyond what rows.py offers.
"""

import os

import load
import peers
import proc
from rows import Cell, Metric, Row

CHANNELS = (1, 10, 100, 1_000, 10_000)
CLIENTS = (1, 10, 50, 200, 1_000, 3_000, 9_000)
CHUNKS = (1, 16, 256, 4_096, 65_536, 1_048_576)


def by_clients(bench, program, clients):
    """redis-benchmark PING with a growing number of clients."""
    with bench.programs.start(program, [bench.server("redis")]) as proxy:
        count = max(bench.scale.requests, 5 * clients)
        cost = bench.cost(proxy)
        figures = load.redis(bench.children, proxy.port, clients, count)
        return {**figures, **cost.per(count, "cpu_us", 1e6)}


def by_chunk(bench, program, chunk):
    """One iperf3 stream whose writes have a given size."""
    channel, sink = bench.programs.sink()
    try:
        with bench.programs.start(program, [channel]) as proxy:
            cost = bench.cost(proxy)
            seconds = bench.scale.bulk.get("seconds", 1)
            result = load.iperf(bench.children, proxy.port, seconds=seconds, chunk=chunk)
            return {"gbits": result["gbits"], **cost.per(result["bytes"] / 1e9, "cpu_ms", 1e3)}
    finally:
        bench.children.stop(sink)


def by_workers(bench, program, workers):
    """The three kinds of load with a growing number of workers."""
    channel, sink = bench.programs.sink()
    try:
        with bench.programs.start(program, [channel], workers) as proxy:
            gbits = load.iperf(bench.children, proxy.port, 8, **bench.scale.bulk)["gbits"]
    finally:
        bench.children.stop(sink)
    with bench.programs.start(program, [bench.server("redis")], workers) as proxy:
        rps = load.redis(bench.children, proxy.port, 50, bench.scale.requests)["rps"]
    with bench.programs.start(program, [bench.server("web")], workers) as proxy:
        rate = load.wrk(bench.children, proxy.port, 32, bench.scale.wrk_seconds)["rate"]
    return {"gbits": gbits, "rps": rps, "rate": rate}


def by_channels(bench, program, channels):
    """A growing number of channels, all of them the same server, so that only the choice differs."""
    with bench.programs.start(program, [bench.server("redis")] * channels, wait=False) as proxy:
        figures = {"ms": 1000 * (load.first_answer(proxy.port, proxy.begin + 60) - proxy.begin)}
        figures["base_mib"] = proc.pss(proxy.pid) / 2**20
        figures["rps"] = load.redis(bench.children, proxy.port, 50, bench.scale.requests)["rps"]
    with bench.programs.start(program, [bench.server("web")] * channels) as proxy:
        cost = bench.cost(proxy)
        result = load.wrk(bench.children, proxy.port, 32, bench.scale.wrk_seconds)
        figures["rate"] = result["rate"]
        figures.update(cost.per(result["connections"], "cpu_us", 1e6))
    return figures


def _cells(key, values, what):
    titles = [f"{value:,} {what[:-1] if value == 1 and what != 'B' else what}".replace(",", " ") for value in values]
    return [Cell(f"{key}-{value}", title, (value,)) for value, title in zip(values, titles)]


def sweeps(quick):
    """The list of sweeps; a quick one has only the first, middle and last value."""

    def some(values):
        return (values[0], values[len(values) // 2], values[-1]) if quick and len(values) > 3 else values

    cores = os.cpu_count() or 1
    workers = sorted({n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, cores) if n <= cores})
    return [
        Row(
            "clients",
            "connections, each with one request in flight",
            _cells("clients", some(CLIENTS), "clients"),
            [
                Metric("rps", "requests", "req/s", True),
                Metric("cpu_us", "CPU of the proxy", "µs/request"),
                Metric("p99_us", "p99", "µs", log=True),
            ],
            by_clients,
            axis="connections",
            sweep=True,
        ),
        Row(
            "chunk",
            "bulk by size of the writes",
            _cells("chunk", some(CHUNKS), "B"),
            [
                Metric("gbits", "throughput", "Gbit/s", True, log=True),
                Metric("cpu_ms", "CPU of the proxy", "ms/GB", log=True),
            ],
            by_chunk,
            axis="bytes per write",
            sweep=True,
        ),
        Row(
            "workers",
            "workers",
            _cells("workers", some(workers), "workers"),
            [
                Metric("gbits", "bulk, 8 streams", "Gbit/s", True),
                Metric("rps", "requests, 50 clients", "req/s", True),
                Metric("rate", "new connections, 32 clients", "conn/s", True),
            ],
            by_workers,
            programs=["balance", "haproxy", "nginx"],
            axis="workers",
            sweep=True,
        ),
        Row(
            "channels",
            "channels",
            _cells("channels", some(CHANNELS), "channels"),
            [
                Metric("rate", "new connections, 32 clients", "conn/s", True),
                Metric("cpu_us", "CPU of the proxy", "µs/connection"),
                Metric("rps", "requests, 50 clients", "req/s", True),
                Metric("ms", "exec to first answer", "ms", log=True),
                Metric("base_mib", "memory at start (PSS)", "MiB", log=True),
            ],
            by_channels,
            programs=peers.PROXIES,
            axis="channels",
            sweep=True,
        ),
    ]
