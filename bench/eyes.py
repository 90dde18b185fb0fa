"""Monitors an instance of balance as monitoring systems and operators do, until stdin ends.

Knows: HTTP requests on one connection each, the command line. Never: figures.

    eyes.py watch PORT BALANCE SERVICE    a scrape of /metrics and `events` every second, the page every two
    eyes.py scrape PORT                   a scrape of /metrics every second
"""

import os
import select
import socket
import subprocess
import sys
import time

EVERY = 1.0
# The script of the page asks so often (templates/page.js).
PAGE_EVERY = 2


class Looking:
    """A connection that requests one path again and again."""

    def __init__(self, port, path):
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self.buffer = bytearray(1 << 20)

    def look(self):
        """(seconds until the last byte arrived, bytes of the body)."""
        begin = time.perf_counter()
        self.stream.sendall(self.request)
        head, left = b"", None
        while left is None or left > 0:
            count = self.stream.recv_into(self.buffer)
            if not count:
                raise OSError("the connection was closed")
            if left is None:
                head += self.buffer[:count]
                if b"\r\n\r\n" in head:
                    length, body = body_of(head)
                    left = length - body
            else:
                left -= count
        return time.perf_counter() - begin, length


def body_of(head):
    """(length of the body, how much of it is already there), from the beginning of an answer."""
    lines, rest = bytes(head).split(b"\r\n\r\n", 1)
    first, *others = lines.split(b"\r\n")
    if b" 200 " not in first:
        raise OSError(f"the answer was {first.decode(errors='replace')}")
    lengths = [line for line in others if line.lower().startswith(b"content-length:")]
    return int(lengths[0].split(b":")[1]), len(rest)


def main(argv):
    port, watches = int(argv[2]), argv[1] == "watch"
    metrics = Looking(port, "/metrics")
    page = Looking(port, "/") if watches else None
    print("ready", flush=True)
    due, count = time.monotonic(), 0
    while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
        due, count = due + EVERY, count + 1
        metrics.look()
        if watches:
            # One that was asked a thousand times is closed by the server; no measurement is so long.
            subprocess.run([argv[3], "-b", "127.0.0.1", "-c", "events 100", argv[4]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if count % PAGE_EVERY == 1:
                page.look()


if __name__ == "__main__":
    try:
        main(sys.argv)
    except (OSError, ValueError) as problem:
        print(f"failed: {problem}", flush=True)
        os._exit(1)
