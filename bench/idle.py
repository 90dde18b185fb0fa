"""Idle connections: a server that holds them and a client that opens them.

Knows: sockets and epoll; both ends live until stdin closes, so they never outlive the run. Never: proxies, figures.

    idle.py serve PORT            answers what comes with one line and holds the connection
    idle.py hold PORT COUNT       opens COUNT connections, gets one answer on each, says `ready`, holds them
"""

import errno
import resource
import select
import socket
import sys

QUESTION, ANSWER = b"PING\r\n", b"+PONG\r\n"
# Few at a time: the listen queue must not overflow, a dropped SYN costs a second.
AT_ONCE = 200
# One source address has about 28 000 ports towards one destination; several keep away from that.
PER_SOURCE = 2_000


def serve(port):
    """Runs until stdin ends."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    poller.register(sys.stdin, select.EPOLLIN | select.EPOLLHUP)
    held = {}
    while True:
        for fd, _ in poller.poll():
            if fd == sys.stdin.fileno():
                return
            if fd == listener.fileno():
                accept(listener, poller, held)
                continue
            try:
                data = held[fd].recv(4096)
                if data:
                    held[fd].send(ANSWER)
            except OSError:
                data = b""
            if not data:
                held.pop(fd).close()


def accept(listener, poller, held):
    """Accepts every waiting client."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        client.setblocking(False)
        held[client.fileno()] = client
        poller.register(client, select.EPOLLIN)


def hold(port, count):
    """Opens the connections, prints `ready N`, waits for stdin to end."""
    held = []
    while len(held) < count:
        batch = []
        for _ in range(min(AT_ONCE, count - len(held))):
            client = socket.socket()
            client.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            client.bind((f"127.0.0.{2 + (len(held) + len(batch)) // PER_SOURCE}", 0))
            client.settimeout(20)
            client.connect(("127.0.0.1", port))
            client.send(QUESTION)
            batch.append(client)
        for client in batch:
            if not client.recv(64):
                print("closed early", flush=True)
                return
        held += batch
    print(f"ready {len(held)}", flush=True)
    sys.stdin.read()


def main(argv):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if argv[1] == "serve":
        serve(int(argv[2]))
    else:
        hold(int(argv[2]), int(argv[3]))


if __name__ == "__main__":
    try:
        main(sys.argv)
    except OSError as problem:
        print(f"failed: {problem}", flush=True)
        sys.exit(1)
