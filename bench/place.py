"""What every suite needs: a directory, processes that end with it, programs where Debian installs them, and the tests that passed.

Knows: how a program is found, started and bounded in time. Never: which suite it is, what is between it and its server.
"""

import glob
import os
import random
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field

import proc

HOST = "127.0.0.1"
# No run of one suite by one path takes longer than this, or it counts as failed.
LONGEST = 240
# Starts a program for each connection, which is its standard input and output: PORT PROGRAM...
INETD = """
import socket, subprocess, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = listener.accept()
    child = subprocess.Popen(sys.argv[2:], stdin=client, stdout=client, stderr=subprocess.DEVNULL, start_new_session=True)
    client.close()
    threading.Thread(target=child.wait, daemon=True).start()
"""
PATH = ":".join([os.environ.get("PATH", ""), "/usr/sbin", *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)])


def which(program):
    """The path of an installed program; for a Python module, whether it is installed."""
    if program.startswith("python3:"):
        found = subprocess.run(["/usr/bin/python3", "-c", f"import {program[8:]}"], capture_output=True)
        return found.returncode == 0
    return shutil.which(program, path=PATH)


@dataclass
class Outcome:
    """The tests of a run, each passed or failed; `problem` says why the run ended early."""

    tests: dict = field(default_factory=dict)
    problem: str = ""
    seconds: float = 0.0

    @property
    def passed(self):
        return {name for name, is_passed in self.tests.items() if is_passed}

    def agrees_with(self, other):
        return self.passed == other.passed and not self.problem


class Place:
    """A directory and the processes of one run."""

    def __init__(self, children, directory):
        self.children, self.directory = children, directory

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def write_bytes(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)

    def serve(self, argv, port, **options):
        """Starts a server and returns when it listens."""
        argv = [which(argv[0]) or argv[0], *argv[1:]]
        proc.wait_listening(port, self.children.start(argv, **options), patience=60)
        return port

    def run(self, argv, timeout=LONGEST, **options):
        """(exit code, all output). Does not wait for processes that it left running, which may still hold its output."""
        argv = [which(argv[0]) or argv[0], *argv[1:]]
        options = {"cwd": self.directory, **options}
        with tempfile.TemporaryFile() as told:
            options |= {"stdin": subprocess.DEVNULL, "stdout": told, "stderr": subprocess.STDOUT, "start_new_session": True}
            child = subprocess.Popen(argv, **options)
            try:
                code = child.wait(timeout)
            except subprocess.TimeoutExpired:
                raise proc.Failed(f"{os.path.basename(argv[0])} took more than {timeout:.0f} s") from None
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            told.seek(0)
            return code, told.read().decode(errors="replace")


def first_line(*argv):
    """The first line that a program prints about its version."""
    argv = [which(argv[0]) or argv[0], *argv[1:]]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return (done.stdout.decode(errors="replace").strip().splitlines() or [""])[0]


def package_version(package):
    return first_line("dpkg-query", "-W", "-f", "${Version}", package)


def noise(length, seed):
    return random.Random(seed).randbytes(length)
