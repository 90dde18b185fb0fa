"""Other projects' test suites and clients: how each server is started, what is run against a port, how tests are counted.

Knows: their command lines and what they print. Never: what is between them and their server.
"""

import ftplib
import hashlib
import os
import random
import re
import shutil

import proc
from place import HOST, Outcome, first_line, noise, package_version, which

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = 50_000


# --- memcapable ------------------------------------------------------------------------------------------------------


class Memcached:
    name, title = "memcached", "memccapable against memcached"
    packages = {"memcached": "memcached", "memccapable": "libmemcached-tools"}

    def version(self):
        return package_version("memcached")

    def serve(self, place):
        port = proc.free_port()
        return place.serve(["memcached", "-u", "nobody", "-l", HOST, "-p", str(port), "-U", "0"], port)

    def run(self, place, port):
        _, told = place.run(["memccapable", "-h", HOST, "-p", str(port)], 60)
        found = re.findall(r"^(\S.*?)\s+\[(pass|FAIL|skip)\]", told, re.MULTILINE | re.IGNORECASE)
        return Outcome({name: word.lower() == "pass" for name, word in found})


# --- sockperf --------------------------------------------------------------------------------------------------------


class Sockperf:
    name, title = "sockperf", "sockperf ping-pong --data-integrity, messages of 14 to 60 000 bytes"
    packages = {"sockperf": "sockperf"}

    def version(self):
        return package_version("sockperf")

    def serve(self, place):
        port = proc.free_port()
        return place.serve(["sockperf", "server", "--tcp", "-i", HOST, "-p", str(port)], port)

    def run(self, place, port):
        tests = {}
        for size in (14, 1_400, 16_000, 60_000):
            argv = ["sockperf", "ping-pong", "--tcp", "-i", HOST, "-p", str(port), "-t", "3", "-m", str(size), "--data-integrity"]
            code, told = place.run(argv, 30)
            clean = re.search(r"# dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0", told)
            tests[f"{size} bytes"] = code == 0 and bool(clean) and "integrity test failed" not in told
        return Outcome(tests)


# --- mail ------------------------------------------------------------------------------------------------------------


class Mail:
    name, title = "smtp", "smtp-source to smtp-sink: 500 mails by 20 connections, of 1 KB to 1 MB"
    packages = {"smtp-source": "postfix", "smtp-sink": "postfix"}

    def version(self):
        return package_version("postfix")

    def serve(self, place):
        port = proc.free_port()
        os.makedirs(place.path("mails"))
        os.chmod(place.path("mails"), 0o777)
        argv = ["smtp-sink", "-u", "nobody", "-d", place.path("mails", "%M."), f"{HOST}:{port}", "1000"]
        return place.serve(argv, port)

    def run(self, place, port):
        tests = {}
        for size, count in ((1_000, 500), (100_000, 200), (1_000_000, 40)):
            argv = ["smtp-source", "-s", "20", "-m", str(count), "-l", str(size), "-f", "a@example.org", "-t", "b@example.org"]
            before = len(os.listdir(place.path("mails")))
            code, _ = place.run([*argv, f"{HOST}:{port}"], 60)
            mails = sorted(os.scandir(place.path("mails")), key=lambda one: one.stat().st_mtime_ns)[before:]
            # The sink keeps one byte per end of a line, and the source counts two.
            whole = sum(one.stat().st_size >= 0.98 * size for one in mails)
            tests[f"{count} mails of {size} bytes"] = code == 0 and whole == count
        return Outcome(tests)


# --- git -------------------------------------------------------------------------------------------------------------


class Git:
    name, title = "git", "git clone, fsck, push and fetch by git://"
    packages = {"git": "git"}

    def version(self):
        return first_line("git", "--version").split()[-1]

    def _git(self, place, *words, **options):
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}
        owner = ["-c", "safe.directory=*", "-c", "user.name=a", "-c", "user.email=a@example.org"]
        return place.run(["git", *owner, *words], env=environment, **options)

    def serve(self, place):
        port = proc.free_port()
        code, told = self._git(place, "clone", "--quiet", "--bare", os.path.dirname(HERE), place.path("all", "a.git"))
        if code != 0:
            raise proc.Failed(f"git clone: {told.strip()}")
        argv = ["git", "-c", "safe.directory=*", "daemon", "--reuseaddr", f"--listen={HOST}", f"--port={port}"]
        return place.serve([*argv, f"--base-path={place.path('all')}", "--export-all", "--enable=receive-pack"], port)

    def run(self, place, port):
        tests, url = {}, f"git://{HOST}:{port}/a.git"

        def test(name, *words, equal=None):
            code, told = self._git(place, *words)
            tests[name] = code == 0 and (equal is None or told == equal)
            return told

        refs = self._git(place, "-C", place.path("all", "a.git"), "for-each-ref")[1]
        test("clone --mirror", "clone", "--quiet", "--mirror", url, "mirror.git")
        test("fsck --full", "-C", "mirror.git", "fsck", "--full", "--strict")
        test("the same references", "-C", "mirror.git", "for-each-ref", equal=refs)
        test("clone --depth 1", "clone", "--quiet", "--depth", "1", url, "shallow")
        test("clone", "clone", "--quiet", url, "copy")
        os.makedirs(place.path("copy"), exist_ok=True)
        with open(place.path("copy", "noise"), "wb") as file:
            file.write(noise(20_000_000, 1))
        test("commit", "-C", "copy", "add", "noise")
        test("commit", "-C", "copy", "commit", "--quiet", "-m", "noise")
        test("push of 20 MB", "-C", "copy", "push", "--quiet", "origin", "HEAD:refs/heads/noise")
        test("fetch of 20 MB", "-C", "mirror.git", "fetch", "--quiet")
        head = self._git(place, "-C", "copy", "rev-parse", "HEAD")[1]
        test("the same commit", "-C", "mirror.git", "rev-parse", "refs/heads/noise", equal=head)
        test("fsck after it", "-C", "mirror.git", "fsck", "--full", "--strict")
        return Outcome(tests)


# --- rsync -----------------------------------------------------------------------------------------------------------


def tree(root):
    """A checksum over all names and contents."""
    total = hashlib.sha256()
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                total.update(os.path.relpath(path, root).encode() + b"\0" + hashlib.sha256(file.read()).digest())
    return total.hexdigest()


class Rsync:
    name, title = "rsync", f"rsync of {FILES:,} files there and back".replace(",", " ")
    packages = {"rsync": "rsync"}

    def version(self):
        return package_version("rsync")

    def serve(self, place):
        port = proc.free_port()
        for name in ("there", "from", "back"):
            os.makedirs(place.path(name))
        draw = random.Random(7)
        for number in range(FILES):
            if number % 500 == 0:
                os.makedirs(place.path("from", f"d{number // 500}"))
            with open(place.path("from", f"d{number // 500}", f"f{number}"), "wb") as file:
                file.write(draw.randbytes(draw.randrange(2_000)))
        with open(place.path("from", "large"), "wb") as file:
            file.write(noise(100_000_000, 2))
        text = f"use chroot = no\n[m]\npath = {place.path('there')}\nread only = no\nuid = 0\ngid = 0\n"
        argv = ["rsync", "--daemon", "--no-detach", "--address", HOST, "--port", str(port)]
        return place.serve([*argv, "--config", place.write("rsyncd.conf", text)], port)

    def run(self, place, port):
        tests, url = {}, f"rsync://{HOST}:{port}/m/"
        wanted = tree(place.path("from"))
        code, _ = place.run(["rsync", "-a", place.path("from") + "/", url])
        tests["there"] = code == 0 and tree(place.path("there")) == wanted
        code, _ = place.run(["rsync", "-a", url, place.path("back") + "/"])
        tests["back"] = code == 0 and tree(place.path("back")) == wanted
        with open(place.path("from", "large"), "r+b") as file:
            file.seek(50_000_000)
            file.write(noise(1_000, 3))
        code, _ = place.run(["rsync", "-a", "--no-whole-file", "--ignore-times", place.path("from") + "/", url])
        tests["differences"] = code == 0 and tree(place.path("there")) == tree(place.path("from"))
        code, told = place.run(["rsync", "-ainc", place.path("from") + "/", url])
        tests["nothing is left to do"] = code == 0 and not re.search(r"^[<>]f", told, re.MULTILINE)
        return Outcome(tests)


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


class Postgres:
    name, title = "postgresql", "pgbench, pg_dump and restore, pg_basebackup and pg_verifybackup"
    packages = {"postgres": "postgresql", "pgbench": "postgresql", "setpriv": "util-linux"}
    AS = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]

    def version(self):
        return first_line("postgres", "--version").split()[2]

    def serve(self, place):
        port = proc.free_port()
        os.makedirs(place.path("own"))
        shutil.chown(place.path("own"), "postgres", "postgres")
        data = place.path("own", "data")
        code, told = place.run([*self.AS, which("initdb"), "-A", "trust", "-U", "postgres", "-N", "-D", data], 60)
        if code != 0:
            raise proc.Failed(f"initdb: {told.strip()[-200:]}")
        settings = [f"port={port}", f"listen_addresses={HOST}", "unix_socket_directories=" + place.path("own"), "fsync=off"]
        argv = [*self.AS, which("postgres"), "-D", data, *(word for one in settings for word in ("-c", one))]
        self.straight = port
        return place.serve(argv, port)

    def run(self, place, port):
        tests = {}

        def run(*words, at=port):
            program, *rest = words
            return place.run([*self.AS, which(program), "-h", HOST, "-p", str(at), "-U", "postgres", *rest], 120)

        def dump(database, at):
            code, told = run("pg_dump", database, at=at)
            # Newer versions put a key of their own there, another one each time.
            told = re.sub(r"^\\(un)?restrict .*$", "", told, flags=re.MULTILINE)
            return hashlib.sha256(told.encode()).hexdigest() if code == 0 else None

        tests["pgbench -i"] = run("pgbench", "-i", "-q", "-s", "5", "postgres")[0] == 0
        for name, words in (("simple", ["-M", "simple"]), ("extended", ["-M", "extended"]), ("prepared", ["-M", "prepared"]), ("-C", ["-C"])):
            code, told = run("pgbench", "-n", "-c", "8", "-j", "2", "-t", "50", *words, "postgres")
            tests[f"pgbench {name}"] = code == 0 and "number of transactions actually processed: 400/400" in told
        tests["pg_dump"] = dump("postgres", port) not in (None, "") and dump("postgres", port) == dump("postgres", self.straight)
        code, _ = run("pg_dump", "-Fc", "-f", place.path("own", "dump"), "postgres")
        code = code or run("createdb", "copy")[0] or run("pg_restore", "-d", "copy", place.path("own", "dump"))[0]
        tests["pg_restore"] = code == 0 and dump("copy", self.straight) == dump("postgres", self.straight)
        backup = place.path("own", "backup")
        tests["pg_basebackup"] = run("pg_basebackup", "-D", backup, "-X", "stream", "-c", "fast")[0] == 0
        tests["pg_verifybackup"] = place.run([*self.AS, which("pg_verifybackup"), backup], 60)[0] == 0
        return Outcome(tests)


# --- HTTP ------------------------------------------------------------------------------------------------------------


class Web:
    name, title = "http", "ab (with and without keepalive) and h2load against nginx"
    packages = {"ab": "apache2-utils", "h2load": "nghttp2-client", "nginx": "nginx"}

    def version(self):
        return f"ab {package_version('apache2-utils')}"

    def serve(self, place):
        port = proc.free_port()
        os.makedirs(place.path("www"))
        self.length = 30_000
        with open(place.path("www", "a"), "wb") as file:
            file.write(noise(self.length, 4))
        temporary = "".join(f"{kind}_temp_path {place.path(kind)};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        self.second = proc.free_port()
        config = f"""user root; daemon off; pid {place.path("pid")}; error_log {place.path("err")};
events {{ worker_connections 4000; }}
http {{ access_log off; {temporary} keepalive_requests 100000;
  server {{ listen {HOST}:{port} backlog=4096; root {place.path("www")}; }} }}
"""
        return place.serve(["nginx", "-c", place.write("web.conf", config), "-e", place.path("err")], port)

    def run(self, place, port):
        tests = {}
        for name, words in (("", []), (" -k", ["-k"])):
            code, told = place.run(["ab", "-q", "-n", "10000", "-c", "50", *words, f"http://{HOST}:{port}/a"], 120)
            told = re.sub(r"  +", " ", told)
            whole = f"HTML transferred: {10_000 * self.length} bytes" in told
            tests[f"ab{name}"] = code == 0 and "Complete requests: 10000\n" in told and "Failed requests: 0\n" in told and whole
        code, told = place.run(["h2load", "--h1", "-n", "10000", "-c", "50", f"http://{HOST}:{port}/a"], 120)
        tests["h2load"] = code == 0 and "10000 succeeded, 0 failed, 0 errored, 0 timeout" in told
        return Outcome(tests)


# --- urgent data -----------------------------------------------------------------------------------------------------


SERVER = """
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
authorizer = DummyAuthorizer()
authorizer.add_anonymous(sys.argv[2])
FTPHandler.authorizer = authorizer
FTPHandler.permit_foreign_addresses = True
FTPServer(("127.0.0.1", int(sys.argv[1])), FTPHandler).serve_forever()
"""


class Ftp:
    name, title = "ftp", "FTP ABOR as urgent data in the middle of a file, by Python's ftplib to pyftpdlib"
    packages = {"python3:pyftpdlib": "python3-pyftpdlib"}

    def version(self):
        return package_version("python3-pyftpdlib")

    def serve(self, place):
        port = proc.free_port()
        os.makedirs(place.path("files"))
        with open(place.path("files", "a"), "wb") as file:
            file.write(noise(50_000_000, 5))
        return place.serve(["/usr/bin/python3", place.write("ftpd.py", SERVER), str(port), place.path("files")], port)

    def run(self, place, port):
        tests = {}
        for number in range(3):
            name = f"ABOR {number + 1}"
            tests[name] = False
            ftp = ftplib.FTP()
            try:
                ftp.connect(HOST, port, timeout=10)
                ftp.login()
                data = ftp.transfercmd("RETR a")
                data.recv(1000)
                answer = ftp.abort()
                data.close()
                if answer.startswith("426"):
                    answer = ftp.getmultiline()
                tests[name] = answer[:3] in ("225", "226") and ftp.sendcmd("NOOP")[:3] == "200"
                ftp.quit()
            except (OSError, EOFError, ftplib.Error):
                pass
            finally:
                ftp.close()
        return Outcome(tests)


SUITES = [Memcached(), Sockperf(), Mail(), Git(), Rsync(), Postgres(), Web(), Ftp()]
