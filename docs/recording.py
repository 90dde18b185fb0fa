#!/usr/bin/env python3
"""Makes docs/recording.svg: a real terminal session in which a server dies under load.

    cargo build --release && sudo docs/recording.py target/release/balance docs/recording.svg

Every line in the picture was printed by a real program: bash and balance run in tmux, in a network namespace of their own,
and this program only types, looks at the screen twenty times a second and draws what it saw. Needs tmux, iproute2 and root.
The servers and the load are at the end of this file.
"""
import html
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

COLUMNS, ROWS, LOAD_ROWS = 100, 25, 8
CHAR, LINE, MARGIN = 8.4, 18, 14
FRAME = 0.05
BACK, FORE, DIM, GREEN, RED = "#14181f", "#d5dbe3", "#6d7787", "#7ec699", "#ff7b72"
PROMPT = r"^\$\Z"
SERVERS = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}


# The session ------------------------------------------------------------------------------------------------------------

class Terminal:
    """tmux with two panes, the load above and a shell below, and what was on them when."""

    def __init__(self, directory):
        self.socket = os.path.join(directory, "tmux")
        rc = os.path.join(directory, "rc")
        with open(rc, "w") as file:
            file.write("PS1='$ '\nset +m\n")
        shell = f"bash --noprofile --rcfile {rc}"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), "-c", directory, shell)
        self.tmux("set", "-g", "status", "off")
        self.tmux("resize-window", "-x", str(COLUMNS), "-y", str(ROWS))
        self.tmux("split-window", "-v", "-l", str(ROWS - LOAD_ROWS - 1), "-c", directory, shell)
        self.started, self.seen = time.monotonic(), []

    def tmux(self, *words):
        return subprocess.run(["tmux", "-S", self.socket, *words], check=True, capture_output=True, text=True).stdout

    def screen(self):
        lines = []
        for pane, rows in ((0, LOAD_ROWS), (1, ROWS - LOAD_ROWS - 1)):
            text = self.tmux("capture-pane", "-p", "-t", f":0.{pane}").split("\n")
            lines += [line.rstrip() for line in (text + [""] * rows)[:rows]]
            if pane == 0:
                lines.append(None)
        return tuple(lines)

    def look(self, seconds):
        """Looks at the screen for that long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            screen = self.screen()
            if not self.seen or self.seen[-1][1] != screen:
                self.seen.append((time.monotonic() - self.started, screen))
            time.sleep(FRAME)

    def type(self, pane, text):
        for char in text:
            self.tmux("send-keys", "-t", f":0.{pane}", "-l", "--", char)
            self.look(0.02)
        self.look(0.3)
        self.tmux("send-keys", "-t", f":0.{pane}", "Enter")

    def until(self, pane, pattern, seconds=20):
        """Looks until the text of a pane, without empty lines at its end, has this."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.tmux("capture-pane", "-p", "-t", f":0.{pane}").rstrip(), re.M):
            self.look(FRAME)
            if time.monotonic() > end:
                sys.exit(f"nothing like {pattern} in pane {pane}:\n" + "\n".join(line or "" for line in self.screen()))


def record(balance):
    directory = tempfile.mkdtemp(prefix="recording-")
    shutil.copy(balance, os.path.join(directory, "balance"))
    for name in ("server", "load"):
        path = os.path.join(directory, name)
        with open(path, "w") as file:
            file.write(f'#!/bin/sh\nexec {sys.executable} {os.path.abspath(__file__)} {name} "$@"\n')
        os.chmod(path, 0o755)
    os.environ["PATH"] = directory + ":" + os.environ["PATH"]
    os.environ["BALANCE_RUN_DIR"] = os.path.join(directory, "run")
    os.makedirs(os.environ["BALANCE_RUN_DIR"], mode=0o700)
    servers = {name: start_server(directory, name) for name in SERVERS}
    terminal = Terminal(directory)
    try:
        terminal.look(0.8)
        terminal.type(1, "balance 80 10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080")
        terminal.until(1, PROMPT)
        terminal.look(1.0)
        terminal.type(0, "load http://localhost/")
        terminal.until(0, "^ *2 s")
        terminal.type(1, f"kill -9 {servers['b'].pid}   # server b, while it is under load")
        terminal.until(1, PROMPT)
        servers["b"].wait()
        terminal.until(0, "^ *4 s")
        terminal.type(1, "balance -c status 80 | cut -c-98")
        terminal.until(1, PROMPT)
        terminal.until(0, "^ *7 s")
        terminal.type(1, "server b 10.0.0.2:8080 &   # it is back")
        terminal.until(1, PROMPT)
        terminal.until(0, r"  b +0  c[^\n]*\n[^\n]*b +[1-9][0-9]*  c[^\n]*\n[^\n]*failed: 0\Z")
        terminal.type(1, "balance -c status 80 | cut -c-98")
        terminal.until(1, PROMPT)
        terminal.until(0, "^total")
        terminal.look(5.0)
        return terminal.seen + [(time.monotonic() - terminal.started, None)]
    finally:
        subprocess.run([os.path.join(directory, "balance"), "-c", "kill 0", "80"], capture_output=True)
        terminal.tmux("kill-server")
        for server in servers.values():
            server.kill()
            server.wait()
        shutil.rmtree(directory)


def start_server(directory, name):
    command = [os.path.join(directory, "server"), name, SERVERS[name] + ":8080"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    server.stdout.readline()
    return server


# The picture ------------------------------------------------------------------------------------------------------------

def colour(row, line):
    if row >= LOAD_ROWS and "ejected" in line:
        return RED
    if line.startswith("total"):
        return GREEN
    return FORE


def draw(seen):
    """One text element for each line of the screen and time in which it did not change."""
    total = seen[-1][0]
    spans, showing = [], {}
    for when, screen in seen:
        for row in range(ROWS):
            line = screen[row] if screen else None
            if showing.get(row, (None, 0))[0] != line:
                if showing.get(row, (None, 0))[0]:
                    spans.append((row, *showing[row], when))
                showing[row] = (line, when)
    keys, out = {}, []
    for row, line, begin, end in spans:
        begin, end = 100 * begin / total, 100 * end / total
        key = (f"{begin:.2f}", f"{end:.2f}")
        name = keys.setdefault(key, f"k{len(keys)}")
        text = html.escape(line)
        prompt = "" if not line.startswith("$ ") else f'<tspan fill="{DIM}">$ </tspan>'
        stays = end >= 99.99
        out.append(
            f'<text class="l{" s" if stays else ""}" style="animation-name:{name}" x="{MARGIN}" '
            f'y="{MARGIN + LINE * (row + 1) - 5}" fill="{colour(row, line)}" textLength="{len(line) * CHAR:.1f}">'
            f"{prompt}{text[2:] if prompt else text}</text>"
        )
    rules = []
    for (begin, end), name in keys.items():
        rules.append(f"@keyframes {name}{{0%{{opacity:0}}{begin}%{{opacity:1}}{end}%{{opacity:0}}100%{{opacity:0}}}}"
                     if float(end) < 99.99 else
                     f"@keyframes {name}{{0%{{opacity:0}}{begin}%{{opacity:1}}100%{{opacity:1}}}}")
    width, height = MARGIN * 2 + COLUMNS * CHAR, MARGIN * 2 + ROWS * LINE
    y = MARGIN + LINE * (LOAD_ROWS + 0.5)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}">',
        "<title>A server is killed under load; balance leaves it out, and no request fails</title>",
        "<style>text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}",
        f".l{{opacity:0;animation:{total:.1f}s step-end infinite}}",
        # Where nothing may move: the last screen, standing.
        "@media (prefers-reduced-motion:reduce){.l{animation:none}.s{opacity:1}}",
        *rules, "</style>",
        f'<rect width="100%" height="100%" rx="8" fill="{BACK}"/>',
        f'<path d="M{MARGIN} {y}H{width - MARGIN:.0f}" stroke="{DIM}" stroke-opacity=".5"/>',
        *out, "</svg>", "",
    ])


# The servers and the load -----------------------------------------------------------------------------------------------

def server(name, address):
    """A web server that says its name."""
    host, port = address.rsplit(":", 1)
    listener = socket.create_server((host, int(port)), backlog=128)
    if not sys.stdout.isatty():
        print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        try:
            client.recv(4096)
            client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n" + name.encode())
        except OSError:
            pass
        client.close()


def load(url):
    """200 requests a second for 16 seconds, each on a connection of its own; one line a second."""
    host = url.split("/")[2]
    counts, failed = {}, 0
    lock = threading.Lock()

    def request():
        nonlocal failed
        try:
            with socket.create_connection((host, 80), timeout=10) as stream:
                stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b""
                while chunk := stream.recv(4096):
                    answer += chunk
            name = answer[-1:].decode()
            with lock:
                counts[name] = counts.get(name, 0) + 1
        except OSError:
            with lock:
                failed += 1

    start, done, all_done = time.monotonic(), {}, 0
    for second in range(1, 17):
        for number in range(200):
            thread = threading.Thread(target=request)
            time.sleep(max(0, start + second - 1 + number / 200 - time.monotonic()))
            thread.start()
        thread.join()
        with lock:
            now = {name: counts[name] - done.get(name, 0) for name in sorted(counts)}
            done = dict(counts)
            shares = "  ".join(f"{name} {now.get(name, 0):3}" for name in SERVERS)
            all_done = sum(counts.values())
            print(f"{second:3} s: {sum(now.values())} requests answered, by {shares}; failed: {failed}", flush=True)
    print(f"total: {all_done + failed} requests, failed: {failed}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "server":
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        server(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 3 and sys.argv[1] == "load":
        load(sys.argv[2])
    elif len(sys.argv) == 3:
        if "RECORDING" not in os.environ:
            os.environ["RECORDING"] = "1"
            os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in SERVERS.values():
            subprocess.run(["ip", "address", "add", address + "/32", "dev", "lo"], check=True)
        picture = draw(record(sys.argv[1]))
        with open(sys.argv[2], "w") as file:
            file.write(picture)
    else:
        sys.exit(__doc__)
