"""The load generators: how they are called and how their output is read.

Knows: iperf3, redis-benchmark, wrk, strace, a ping client. Never: which program stands between, what a target is.
"""

import contextlib
import csv
import io
import json
import os
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import time

import proc

HERE = os.path.dirname(os.path.abspath(__file__))


def iperf(children, port, streams=1, down=False, seconds=None, size=None, chunk=None):
    """One bulk transfer: {"bytes", "seconds", "gbits", "rates" (one per stream), "ports" (the streams' own)}."""
    argv = iperf_argv(port, streams, down, seconds, size, chunk)
    return iperf_result(proc.run(children, argv, timeout=(seconds or 10) + 30))


def iperf_argv(port, streams=1, down=False, seconds=None, size=None, chunk=None):
    """The command line, for a number of seconds or of bytes."""
    argv = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-P", str(streams), "-J"]
    argv += ["-n", str(size)] if size else ["-t", str(seconds)]
    if chunk:
        argv += ["-l", str(chunk)]
    if down:
        argv += ["-R"]
    return argv


def iperf_result(text):
    """Reads iperf3's JSON."""
    report = json.loads(text)
    if "error" in report:
        raise proc.Failed("iperf3: " + report["error"])
    end = report["end"]
    total = end["sum_received"]
    # The end that stops first knows best: bytes that were still on their way are not in the other's interval.
    return {
        "bytes": max(total["bytes"], end["sum_sent"]["bytes"]),
        "seconds": total["seconds"],
        "gbits": total["bits_per_second"] / 1e9,
        "rates": [stream["receiver"]["bits_per_second"] for stream in end["streams"]],
        "ports": [stream["local_port"] for stream in report["start"]["connected"]],
    }


def redis(children, port, clients, requests):
    """PING, one request in flight per client: {"rps", "p50_us", "p99_us"}."""
    argv = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-t", "ping_mbulk", "--csv"]
    text = proc.run(children, [*argv, "-c", str(clients), "-n", str(requests)], timeout=30 + requests / 2_000)
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row.get("test", "").startswith("PING")]
    if not rows:
        raise proc.Failed("redis-benchmark printed no figures: " + text.strip()[-200:])
    row = rows[0]
    return {
        "rps": float(row["rps"]),
        "p50_us": 1000 * float(row["p50_latency_ms"]),
        "p99_us": 1000 * float(row["p99_latency_ms"]),
    }


@contextlib.contextmanager
def burning(children, count):
    """Runs `count` unrelated programs, each of which uses a whole core if it can."""
    running = [children.start([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for child in running:
            children.stop(child, signal.SIGKILL)


def ping(port, count):
    """One client, one request at a time; round-trip times in microseconds: {"p50_us", "p99_us"}."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trips = []
        for turn in range(count + count // 10):
            begin = time.perf_counter_ns()
            client.sendall(b"PING\r\n")
            if not client.recv(64):
                raise proc.Failed("the connection was closed")
            if turn >= count // 10:
                trips.append(time.perf_counter_ns() - begin)
    trips.sort()
    return {"p50_us": statistics.median(trips) / 1000, "p99_us": trips[len(trips) * 99 // 100] / 1000}


def first_answer(port, deadline):
    """Tries until a request is answered; returns the time of that."""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                client.sendall(b"PING\r\n")
                if client.recv(64):
                    return time.monotonic()
        except OSError:
            time.sleep(0.0002)
    raise proc.Failed("no answer in time")


def wrk(children, port, clients, seconds, host="127.0.0.1", scheme="http", script=None):
    """A connection for each request: {"rate", "connections", "p50_us", "p99_us", "errors"}."""
    argv = ["wrk", "-t", "2", "-c", str(clients), "-d", f"{seconds}s", "--latency", "-H", "Connection: close"]
    argv += ["-s", os.path.join(HERE, script)] if script else []
    text = proc.run(children, [*argv, f"{scheme}://{host}:{port}/index.html"], timeout=seconds + 20)
    count = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not count or not rate or not int(count[1]):
        raise proc.Failed("wrk: no request was answered")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return {
        "rate": float(rate[1]),
        "connections": int(count[1]),
        "p50_us": _microseconds(text, "50"),
        "p99_us": _microseconds(text, "99"),
        "errors": (sum(map(int, errors.groups())) if errors else 0) + (int(refused[1]) if refused else 0),
    }


@contextlib.contextmanager
def flood(children, port, clients, script):
    """wrk that requests from an HTTP server as fast as it answers; {"rate"} is set when the block ends."""
    argv = ["wrk", "-t", "1", "-c", str(clients), "-d", "600s", "--timeout", "30s", "-s", script]
    child = children.start([*argv, f"http://127.0.0.1:{port}/"], stdout=subprocess.PIPE, text=True)
    figures = {}
    try:
        # Until all have come.
        time.sleep(0.3)
        yield figures
        child.send_signal(signal.SIGINT)
        text, _ = child.communicate(timeout=10)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
        if not rate:
            raise proc.Failed("wrk: the flood got no answer")
        figures["rate"] = float(rate[1])
    finally:
        children.stop(child, signal.SIGKILL)


@contextlib.contextmanager
def looked_at(children, how, port, *more):
    """Monitors balance by HTTP for as long as the block lasts."""
    argv = [sys.executable, "-B", os.path.join(HERE, "eyes.py"), how, str(port), *map(str, more)]
    child = children.start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        # Its own start is no cost of looking.
        if not select.select([child.stdout], [], [], 30)[0] or child.stdout.readline().strip() != "ready":
            raise proc.Failed("nobody can look at balance")
        yield
        if child.poll() is not None:
            raise proc.Failed(f"who looks at balance ended: {child.stdout.read().strip() or 'no message'}")
    finally:
        children.stop(child, signal.SIGKILL)


def _microseconds(text, percentile):
    found = re.search(rf"^\s+{percentile}%\s+([\d.]+)(us|ms|s)", text, re.M)
    return float(found[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[found[2]] if found else None


@contextlib.contextmanager
def held(children, port, count):
    """Holds idle connections to a port for as long as the block lasts."""
    argv = [sys.executable, "-B", os.path.join(HERE, "idle.py"), "hold", str(port), str(count)]
    child = children.start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if not select.select([child.stdout], [], [], 90)[0]:
            raise proc.Failed(f"{count} connections took more than 90 s")
        said = child.stdout.readline().strip()
        if said != f"ready {count}":
            raise proc.Failed(f"could not hold {count} connections: {said or 'no answer'}")
        yield
    finally:
        children.stop(child, signal.SIGKILL)


@contextlib.contextmanager
def counted_calls(children, directory, pid):
    """Counts the system calls of a process during the block, by name, in the dict that this yields."""
    path = os.path.join(directory, "strace.out")
    argv = ["strace", "-c", "-f", "-q", "-o", path]
    for member in proc.family(pid):
        argv += ["-p", str(member)]
    tasks = [task for member in proc.family(pid) for task in os.listdir(f"/proc/{member}/task")]
    child = children.start(argv)
    calls = {}
    try:
        deadline = time.monotonic() + 5
        while not all(_is_traced(task) for task in tasks):
            if child.poll() is not None or time.monotonic() > deadline:
                raise proc.Failed("strace cannot attach")
            time.sleep(0.01)
        yield calls
    finally:
        children.stop(child, signal.SIGINT)
    with open(path) as file:
        for line in file:
            words = line.split()
            if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
                calls[words[-1]] = int(words[3])


def _is_traced(task):
    try:
        with open(f"/proc/{task}/status") as file:
            return "TracerPid:\t0" not in file.read()
    except OSError:
        return True
