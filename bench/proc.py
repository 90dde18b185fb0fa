"""Processes and what the kernel reports about them.

Knows: starting and ending children, /proc, free ports. Never: which program it is, what is measured.
"""

import ctypes
import os
import random
import re
import resource
import signal
import socket
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
LISTEN, ESTABLISHED = "0A", "01"


class Failed(Exception):
    """A measurement that failed, with the reason."""


def raise_descriptor_limit():
    """Raises the limit on descriptors, which children inherit. Returns the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


_LIBC = ctypes.CDLL(None)


def _tie():
    _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Children:
    """All processes of a run, so that none outlives it."""

    def __init__(self, directory):
        self.directory = directory
        self.running = []

    def start(self, argv, tied=True, **options):
        """Starts `argv` in a session of its own, so that Ctrl-C reaches this program first.

        A tied child is ended by the kernel if this program is killed. That costs a full fork, so it can be left out.
        """
        if tied:
            options["preexec_fn"] = _tie
        log = open(os.path.join(self.directory, os.path.basename(argv[0]) + ".log"), "ab")
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", log)
        options.setdefault("stderr", log)
        try:
            child = subprocess.Popen(argv, start_new_session=True, cwd=self.directory, **options)
        finally:
            log.close()
        self.running.append(child)
        return child

    def stop(self, child, how=signal.SIGTERM):
        """Ends a child and its descendants: politely, then not."""
        everyone = family(child.pid) if child.poll() is None else []
        if child.poll() is None:
            child.send_signal(how)
            try:
                child.wait(3)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for pid in everyone[1:]:
            # Only a process that outlived its parent still has these two: our session, another parent.
            if field(pid, 6) == child.pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe:
                pipe.close()
        if child in self.running:
            self.running.remove(child)

    def stop_all(self):
        """Ends all processes that are left."""
        for child in list(self.running):
            self.stop(child)


def run(children, argv, timeout):
    """Runs a load generator to its end and returns its stdout."""
    child = children.start(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"{os.path.basename(argv[0])} took more than {timeout:.0f} s") from None
    finally:
        children.stop(child, signal.SIGKILL)
    if child.returncode != 0:
        reason = (err.strip() or out.strip() or "no message").replace("\n", " ")[-300:]
        raise Failed(f"{os.path.basename(argv[0])}: exit code {child.returncode}: {reason}")
    return out


# --- /proc ----------------------------------------------------------------------------------------------------------


def stat(pid):
    """The fields of /proc/PID/stat, numbered as in proc(5) minus one; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
    except OSError:
        return None
    name_end = text.rindex(")")
    return [str(pid), text[: name_end + 1]] + text[name_end + 2 :].split()


def field(pid, number):
    """One numeric field of /proc/PID/stat, numbered as in proc(5)."""
    fields = stat(pid)
    return int(fields[number - 1]) if fields else None


def family(pid):
    """A process and its descendants."""
    found, todo = [], [pid]
    while todo:
        pid = todo.pop()
        found.append(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    todo += [int(word) for word in file.read().split()]
        except OSError:
            pass
    return found


def cpu(pid):
    """(user, system, both) seconds used so far by a process, its threads and its descendants.

    The first two come in clock ticks; the third is exact where the kernel keeps schedstat.
    """
    user = system = exact = 0
    for member in family(pid):
        fields = stat(member)
        if fields:
            user += int(fields[13]) / TICKS
            system += int(fields[14]) / TICKS
        try:
            for task in os.listdir(f"/proc/{member}/task"):
                with open(f"/proc/{member}/task/{task}/schedstat") as file:
                    exact += int(file.read().split()[0]) / 1e9
        except OSError:
            pass
    return user, system, exact or user + system


def thread_cpu(pid, name):
    """Seconds used so far by the threads of a process with this name."""
    exact = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/comm") as file:
                is_it = file.read().strip() == name
            with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                exact += int(file.read().split()[0]) / 1e9 if is_it else 0
        except OSError:
            pass
    return exact


class Company:
    """How much of the processors others have used since this object was created."""

    def __init__(self):
        self.begin = self._now()

    @staticmethod
    def _now():
        """Seconds of processor time: in all, used by programs, taken by the hypervisor, used by our own processes."""
        with open("/proc/stat") as file:
            user, nice, system, idle, wait, hard, soft, stolen = (int(word) / TICKS for word in file.readline().split()[1:9])
        mine = sum(
            used.ru_utime + used.ru_stime
            for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
        )
        busy = user + nice + system + hard + soft
        return busy + idle + wait + stolen, busy, stolen, mine

    def shares(self):
        """(of other programs, of the hypervisor), in percent of the total. Our children count only after they have ended."""
        total, busy, stolen, mine = (end - begin for begin, end in zip(self.begin, self._now()))
        return (100 * max(0, busy - mine) / total, 100 * stolen / total) if total > 0 else (0, 0)


def pss(pid):
    """Bytes of memory of a process and its descendants; shared pages are divided among their users."""
    total = 0
    for member in family(pid):
        try:
            with open(f"/proc/{member}/smaps_rollup") as file:
                total += 1024 * int(re.search(r"^Pss:\s+(\d+) kB", file.read(), re.M)[1])
        except (OSError, TypeError):
            pass
    return total


def tcp_table():
    """(local port, remote port, state, inode) of the IPv4 sockets; listening ones come first."""
    with open("/proc/net/tcp") as file:
        next(file)
        for line in file:
            words = line.split()
            yield int(words[1][-4:], 16), int(words[2][-4:], 16), words[3], words[9]


def is_listening(port):
    """Looks at the list of sockets instead of connecting, since a connection would reach the server behind the proxy."""
    for local, _, state, _ in tcp_table():
        if state != LISTEN:
            return False
        if local == port:
            return True
    return False


def wait_listening(port, child, patience=10.0):
    """Returns when the port is open; fails when the child ends instead."""
    deadline = time.monotonic() + patience
    while not is_listening(port):
        if child.poll() is not None:
            raise Failed(f"{child.args[0]} ended with code {child.returncode} before it listened")
        if time.monotonic() > deadline:
            raise Failed(f"{child.args[0]} does not listen on port {port}")
        time.sleep(0.002)


def clients_per_poller(pid, port):
    """Which clients of the listening port belong to which epoll instance: lists of their port numbers.

    Every event loop in use here has one epoll instance per worker, so this is who carries whom.
    """
    by_inode = {inode: remote for local, remote, state, inode in tcp_table() if local == port and state == ESTABLISHED}
    pollers = []
    for member in family(pid):
        links = {}
        for fd in os.listdir(f"/proc/{member}/fd"):
            try:
                links[fd] = os.readlink(f"/proc/{member}/fd/{fd}")
            except OSError:
                continue
        for fd, link in links.items():
            if link != "anon_inode:[eventpoll]":
                continue
            with open(f"/proc/{member}/fdinfo/{fd}") as file:
                targets = re.findall(r"^tfd:\s+(\d+)", file.read(), re.M)
            inodes = [links.get(target, "")[8:-1] for target in targets]
            pollers.append([by_inode[inode] for inode in inodes if inode in by_inode])
    return pollers


# --- ports ----------------------------------------------------------------------------------------------------------

_given = set()


def free_port():
    """A free port below the range of ports that the system chooses for outgoing connections."""
    for _ in range(1000):
        port = random.randrange(10_000, 32_000)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise Failed("no free port")
