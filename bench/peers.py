"""How each program is started as a TCP proxy, and the servers behind it.

Knows: command lines and config files, all unprivileged in a scratch directory. Never: what is measured.
"""

import glob
import os
import re
import subprocess
import sys
import time

import proc

PROXIES = ["balance", "haproxy", "nginx", "pen"]
PEERS = ["haproxy", "nginx", "pen"]
PROGRAMS = ["direct", *PROXIES]
# balance with another setting, and another build of it. They are compared with, and never judged.
POLLING, BEFORE = "polling", "before"
# balance that is looked at more or less, for `bench/compare --observe`; the first two are the same.
BARE, AGAIN = "bare", "again"
OBSERVED = {
    BARE: "bare",
    AGAIN: "bare again",
    "watched": "all but the log",
    "text": "log, text",
    "json": "log, JSON",
    "stalled": "log, stalled reader",
    "full": "log, full disk",
    "scraped": "scraped",
    "flooded": "flooded",
    "elsewhere": "another flooded",
}
TITLES = {
    **OBSERVED,
    "direct": "direct",
    "balance": "balance",
    POLLING: "balance --busy-poll on",
    BEFORE: "balance before",
    "haproxy": "HAProxy",
    "nginx": "nginx",
    "pen": "pen",
}
PACKAGES = {"haproxy": "haproxy", "nginx": "nginx", "pen": "pen"}
# What a proxy has to do besides carrying bytes: nothing, send PROXY headers of version 2 to its channels, or choose a channel by the name
# that a TLS client asks for, or by that it speaks HTTP.
PLAIN, HEADER, NAME, HTTP = "plain", "header", "name", "http"
# The name that is asked for: it is an address everywhere.
ASKED = "localhost"
# Two descriptors each must fit under the usual hard limit of 20 000, with some left for splice pipes.
MOST_CONNECTIONS = 9_500
BACKLOG = 4_096
HERE = os.path.dirname(os.path.abspath(__file__))


class Running:
    """A started proxy, or none at all: then `port` is the server's own."""

    def __init__(self, children, port, child=None, begin=0.0):
        self.children, self.port, self.child, self.begin = children, port, child, begin
        self.is_lasting = False

    @property
    def pid(self):
        return self.child.pid if self.child else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child and not self.is_lasting:
            self.children.stop(self.child)


class Programs:
    """Starts the compared programs, all with the same number of workers."""

    def __init__(self, children, directory, balance, workers, before=None):
        self.children, self.directory, self.balance, self.workers = children, directory, balance, workers
        self.before = before
        self._lasting = {}

    def lasting(self, name, channels):
        """A process that was started at its first use and runs until the end of the comparison."""
        key = (name, tuple(channels))
        running = self._lasting.get(key)
        if running is None or (running.child and running.child.poll() is not None):
            running = self._lasting[key] = self.start(name, channels)
            running.is_lasting = True
        return running

    def start(self, name, channels, workers=None, wait=True, task=PLAIN):
        """Starts `name` in front of the ports in `channels`, for one of the tasks; with `wait`, returns when it listens."""
        if name == "direct":
            return Running(self.children, channels[0])
        port = proc.free_port()
        words = (task,) if task != PLAIN else ()
        return self._launch(port, getattr(self, "_" + name)(port, channels, workers or self.workers, *words), wait)

    def balance_with(self, options, channels):
        """Starts balance with additional options."""
        port = proc.free_port()
        program, *words = self._balance(port, channels, self.workers)
        return self._launch(port, [program, *options, *words], True)

    def _launch(self, port, argv, wait):
        begin = time.monotonic()
        running = Running(self.children, port, self.children.start(argv, tied=wait), begin)
        if wait:
            try:
                proc.wait_listening(port, running.child)
            except proc.Failed as failure:
                self.children.stop(running.child)
                raise proc.Failed(f"{failure}; {self._last_words(argv[0])}") from None
        return running

    def _last_words(self, program):
        try:
            with open(os.path.join(self.directory, os.path.basename(program) + ".log"), errors="replace") as file:
                return (file.read().strip().splitlines() or ["no message"])[-1]
        except OSError:
            return "no message"

    def _write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def _balance(self, port, channels, workers, task=PLAIN):
        targets = [f"127.0.0.1:{channel}" + (",proxy" if task == HEADER else "") for channel in channels]
        if task in (NAME, HTTP):
            # Nobody listens where everybody else would go.
            targets = ["@" + (ASKED if task == NAME else "http"), *targets, "@", "127.0.0.1:9"]
        return [self.balance, "-f", "-b", "127.0.0.1", "--workers", str(workers), str(port), *targets]

    def _polling(self, port, channels, workers):
        program, *words = self._balance(port, channels, workers)
        return [program, "--busy-poll", "on", *words]

    def _before(self, port, channels, workers):
        return [self.before, *self._balance(port, channels, workers)[1:]]

    def _haproxy(self, port, channels, workers, task=PLAIN):
        option = " send-proxy-v2" if task == HEADER else ""
        servers = "\n".join(f"    server s{i} 127.0.0.1:{channel}{option}" for i, channel in enumerate(channels))
        listen = f"    bind 127.0.0.1:{port} backlog {BACKLOG}"
        proxy = f"listen proxy\n{listen}\n    balance roundrobin\n{servers}"
        if task in (NAME, HTTP):
            awaited = "req.ssl_hello_type 1" if task == NAME else "req.proto_http"
            wanted = f"req.ssl_sni -i {ASKED}" if task == NAME else awaited
            proxy = f"""frontend proxy
{listen}
    tcp-request inspect-delay 3s
    tcp-request content accept if {{ {awaited} }}
    use_backend wanted if {{ {wanted} }}
    default_backend others
backend wanted
    balance roundrobin
{servers}
backend others
    server nobody 127.0.0.1:9"""
        config = f"""
global
    nbthread {workers}
    maxconn {MOST_CONNECTIONS}
    maxpipes 400
defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 1h
    timeout server 1h
{proxy}
"""
        return ["haproxy", "-db", "-q", "-f", self._write(f"haproxy-{task}.cfg", config)]

    def _nginx(self, port, channels, workers, task=PLAIN):
        servers = " ".join(f"server 127.0.0.1:{channel};" for channel in channels)
        # It has no version 2.
        more = {PLAIN: "", HEADER: "proxy_protocol on;", NAME: "ssl_preread on;"}[task]
        choice = f"map $ssl_preread_server_name $to {{ {ASKED} channels; default others; }}" if task == NAME else ""
        config = self._nginx_head(f"proxy-{task}", workers) + f"""
stream {{
    access_log off;
    upstream channels {{ {servers} }}
    upstream others {{ server 127.0.0.1:9; }}
    {choice}
    server {{
        listen 127.0.0.1:{port} backlog={BACKLOG};
        {more}
        proxy_pass {"$to" if task == NAME else "channels"};
        proxy_connect_timeout 5s;
        proxy_timeout 1h;
    }}
}}
"""
        return self._nginx_argv(f"proxy-{task}", config)

    def _pen(self, port, channels, workers):
        del workers  # It has one event loop and no more.
        targets = [f"127.0.0.1:{channel}" for channel in channels]
        sizes = ["-x", str(MOST_CONNECTIONS), "-c", "2048", "-S", str(len(channels) + 1), "-q", str(BACKLOG)]
        return ["pen", "-f", "-r", *sizes, f"127.0.0.1:{port}", *targets]

    def _nginx_head(self, name, workers):
        path = os.path.join(self.directory, f"nginx-{name}")
        # Without root the `user` line is only warned about, with root it keeps the workers able to read our files.
        user = "user root;" if os.geteuid() == 0 else ""
        modules = glob.glob("/usr/lib*/nginx/modules/ngx_stream_module.so")
        load = f"load_module {modules[0]};" if modules else ""
        return f"""
{user}
{load}
worker_processes {workers};
worker_rlimit_nofile {proc.raise_descriptor_limit()};
daemon off;
pid {path}.pid;
error_log {path}.err error;
events {{ worker_connections {2 * MOST_CONNECTIONS}; }}
"""

    def _nginx_argv(self, name, config):
        path = self._write(f"nginx-{name}.conf", config)
        return ["nginx", "-p", self.directory, "-c", path, "-e", os.path.join(self.directory, f"nginx-{name}.err")]

    # --- the servers behind the proxies ------------------------------------------------------------------------------

    def redis(self):
        """Starts a redis-server that stores nothing; returns its port."""
        port = proc.free_port()
        limit = min(19_000, proc.raise_descriptor_limit() - 100)
        argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        argv += ["--maxclients", str(limit), "--tcp-backlog", str(BACKLOG), "--dir", self.directory]
        proc.wait_listening(port, self.children.start(argv))
        return port

    def web(self):
        """Starts an nginx that serves one small file; returns its port."""
        return self._web("web")

    def web_behind_proxies(self):
        """The same, but it expects PROXY headers."""
        return self._web("headers", "proxy_protocol")

    def web_with_tls(self):
        """The same, with TLS and a full handshake for each connection."""
        key, certificate = (os.path.join(self.directory, f"web.{name}") for name in ("key", "crt"))
        argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
        proc.run(self.children, [*argv, "-subj", f"/CN={ASKED}", "-keyout", key, "-out", certificate], timeout=30)
        files = f"ssl_certificate {certificate}; ssl_certificate_key {key};"
        return self._web("tls", "ssl", f"{files} ssl_session_cache off; ssl_session_tickets off;")

    def _web(self, name, manner="", more=""):
        port = proc.free_port()
        root = os.path.join(self.directory, "www")
        os.makedirs(root, exist_ok=True)
        self._write("www/index.html", "hello, this page is served to measure connections\n")
        temporary = "\n".join(
            f"    {kind}_temp_path {self.directory}/{name}-{kind};"
            for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        )
        config = self._nginx_head(name, 2) + f"""
http {{
    access_log off;
{temporary}
    server {{ listen 127.0.0.1:{port} {manner} backlog={BACKLOG}; root {root}; {more} }}
}}
"""
        proc.wait_listening(port, self.children.start(self._nginx_argv(name, config)))
        return port

    def sink(self):
        """Starts an iperf3 server for one test; returns its port and process."""
        port = proc.free_port()
        child = self.children.start(["iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", str(port)])
        proc.wait_listening(port, child)
        return port, child

    def lasting_sink(self):
        """Starts an iperf3 server for any number of tests; returns its port."""
        port = proc.free_port()
        proc.wait_listening(port, self.children.start(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)]))
        return port

    def quiet(self):
        """Starts a server that answers once and then holds the connection; returns its port."""
        port = proc.free_port()
        argv = [sys.executable, "-B", os.path.join(HERE, "idle.py"), "serve", str(port)]
        child = self.children.start(argv, stdin=subprocess.PIPE)
        proc.wait_listening(port, child)
        return port


def versions(balance):
    """The versions of the compared programs, as each reports its own."""
    found = {}
    try:
        text = subprocess.run([balance, "--version"], capture_output=True, text=True, timeout=10).stdout
        found["balance"] = (re.findall(r"\d[\w.]*", text) or ["?"])[0]
    except OSError:
        found["balance"] = "?"
    for program, package in {**PACKAGES, "iperf3": "iperf3", "redis": "redis-server", "wrk": "wrk"}.items():
        argv = ["dpkg-query", "-W", "-f", "${Version}", package]
        try:
            found[program] = subprocess.run(argv, capture_output=True, text=True, timeout=10).stdout or "?"
        except OSError:
            found[program] = "?"
    return found
