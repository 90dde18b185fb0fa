"""Test suites that projects have for their own client or server: redis-py's, MariaDB's, OpenSSH's.

Knows: where the suites come from, how they are told a port, what they print. Never: what is between them and their server.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree

import proc
from place import HOST, INETD, Outcome, first_line, package_version, which

HERE = os.path.dirname(os.path.abspath(__file__))
# What had to be downloaded is kept there.
KEPT = os.path.join(os.path.dirname(HERE), "target", "conformance")


# --- redis-py --------------------------------------------------------------------------------------------------------


class RedisPy:
    name, title = "redis", "redis-py's test suite against Redis"
    packages = {
        "redis-server": "redis-server",
        "python3:pytest_asyncio": "python3-pytest-asyncio",
        "python3:pytest_timeout": "python3-pytest-timeout",
        "python3:async_timeout": "python3-async-timeout",
        "python3:deprecated": "python3-deprecated",
    }
    # Debian's package has the client of this version, and no tests; the source package has both.
    VERSION = "4.3.4"
    DIGEST = "ddf27071df4adf3821c4f2ca59d67525c3a82e5f268bed97b813cb4fabf87880"

    def version(self):
        return f"redis-py {self.VERSION}, Redis {package_version('redis-server').split(':')[-1]}"

    def prepare(self):
        """Gets the sources from PyPI, once."""
        self.archive = os.path.join(KEPT, f"redis-{self.VERSION}.tar.gz")
        if not os.path.exists(self.archive):
            words = ["download", "--quiet", "--no-deps", "--no-binary", "redis", "--dest", KEPT, f"redis=={self.VERSION}"]
            done = subprocess.run([sys.executable, "-m", "pip", *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
            if done.returncode != 0:
                raise proc.Failed(f"cannot download redis-py's sources: {done.stderr.decode(errors='replace').strip()[-200:]}")
        with open(self.archive, "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != self.DIGEST:
                raise proc.Failed(f"{self.archive} is not the file that this suite was written for")

    def serve(self, place):
        self.prepare()
        with tarfile.open(self.archive) as archive:
            archive.extractall(place.directory)
        port = proc.free_port()
        argv = ["redis-server", "--port", str(port), "--bind", HOST, "--save", "", "--dir", place.directory]
        return place.serve([*argv, "--enable-debug-command", "yes", "--enable-module-command", "yes"], port)

    def run(self, place, port):
        sources = place.path(f"redis-{self.VERSION}")
        argv = ["/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-W", "ignore"]
        argv += ["--redis-url", f"redis://{HOST}:{port}/9", "--timeout", "60"]
        tests = {}

        def run(*words):
            report = place.path("report.xml")
            _, told = place.run([*argv, "--junitxml", report, *words], 1200, cwd=sources)
            try:
                cases = xml.etree.ElementTree.parse(report).iter("testcase")
            except OSError:
                raise proc.Failed(f"pytest: {told.strip()[-200:]}") from None
            found = {}
            for case in cases:
                kinds = {child.tag for child in case}
                if "skipped" in kinds:
                    continue
                # As pytest calls it: the file, then the class, then the test.
                path = case.get("classname").split(".")
                length = next(n for n in range(1, len(path) + 1) if os.path.exists(os.path.join(sources, *path[:n]) + ".py"))
                name = "::".join(["/".join(path[:length]) + ".py", *path[length:], case.get("name")])
                found[name] = found.get(name, True) and not kinds & {"failure", "error"}
            os.remove(report)
            return found

        # There is neither a cluster nor a module, and no server with TLS.
        tests.update(run("-m", "not onlycluster and not redismod and not ssl", "--ignore", "tests/test_ssl.py", "tests"))
        # Some wait for times; a busy machine may miss one.
        failed = [name for name, is_passed in tests.items() if not is_passed]
        tests.update(run(*failed) if failed else {})
        return Outcome(tests)


# --- MariaDB ---------------------------------------------------------------------------------------------------------


class MariaDb:
    name, title = "mariadb", "MariaDB's test suite, a fixed list"
    packages = {"mariadbd": "mariadb-server", "mariadb-install-db": "mariadb-server"}
    files = {"/usr/share/mysql/mysql-test/mysql-test-run.pl": "mariadb-test"}
    SUITE = "/usr/share/mysql/mysql-test"
    LIST = os.path.join(HERE, "mariadb.list")

    def version(self):
        return package_version("mariadb-server").split(":")[-1].split("-")[0]

    def serve(self, place):
        port = proc.free_port()
        data, files = place.path("data"), place.path("var")
        for name in (data, files, os.path.join(files, "log"), os.path.join(files, "tmp"), os.path.join(files, "run")):
            os.makedirs(name)
            shutil.chown(name, "mysql", "mysql")
            os.chmod(name, 0o777)
        # The settings that the suite starts its own servers with.
        with open(os.path.join(self.SUITE, "include", "default_mysqld.cnf")) as file:
            settings = file.read().replace("@ENV.MYSQLTEST_VARDIR", files).replace("@ENV.MYSQL_TEST_DIR", self.SUITE)
        settings = re.sub(r"^!.*$", "", settings, flags=re.MULTILINE)
        config = place.write("server.cnf", settings)
        # Several servers at a time would share the little memory that io_uring may lock.
        words = [f"--defaults-file={config}", "--user=mysql", f"--datadir={data}", "--skip-innodb-use-native-aio"]
        argv = [which("mariadb-install-db"), *words, "--auth-root-authentication-method=normal"]
        code, told = place.run(argv, 120)
        if code != 0:
            raise proc.Failed("mariadb-install-db: " + (re.findall(r"\[ERROR\].*", told) or ["no message"])[0])
        words += [f"--port={port}", f"--bind-address={HOST}", f"--socket={place.path('data', 's')}", "--server-id=1"]
        place.serve(["mariadbd", *words, "--innodb-flush-log-at-trx-commit=0"], port)
        own = ["mariadb", "--no-defaults", "-h", HOST, "-P", str(port), "-u", "root", "-e"]
        code, told = place.run([*own, "CREATE DATABASE IF NOT EXISTS test; CREATE DATABASE mtr"], 30)
        if code != 0:
            raise proc.Failed(f"mariadb: {told.strip()[-200:]}")
        return port

    def run(self, place, port):
        with open(self.LIST) as file:
            names = [line.strip() for line in file if line.strip() and not line.startswith("#")]
        argv = ["perl", "mysql-test-run.pl"]
        # With `localhost` for a host, clients would go round the proxy, by the server's Unix socket.
        for setting in (f"host={HOST}", f"port={port}", "user=root", "protocol=tcp"):
            argv += ["--extern", setting]
        argv += [f"--vardir={place.path('var')}", "--force", "--max-test-fail=0", "--retry=1", "--testcase-timeout=2"]
        environment = {**os.environ, "MTR_BUILD_THREAD": "300"}
        _, told = place.run([*argv, *names], 900, cwd=self.SUITE, env=environment)
        found = re.findall(r"^(\S+)(?: '[^']*')?\s+\[ (pass|fail|retry-pass|retry-fail) \]", told, re.MULTILINE)
        tests = {}
        for name, word in found:
            tests[name] = tests.get(name, False) or word.endswith("pass")
        if not tests:
            raise proc.Failed(f"mysql-test-run: {told.strip()[-200:]}")
        return Outcome(tests)


# --- OpenSSH ---------------------------------------------------------------------------------------------------------


class OpenSsh:
    name, title = "openssh", "OpenSSH's regression scripts that use the network"
    packages = {"sshd": "openssh-server", "ssh": "openssh-client", "mount": "mount", "telnet": "inetutils-telnet"}
    files = {"/usr/lib/openssh/regress/test-exec.sh": "openssh-tests"}
    SUITE = "/usr/lib/openssh/regress"
    # They start an sshd of their own on a port.
    BY_PORT = (
        "brokenkeys cfgmatch cfgmatchlisten connect connect-uri dynamic-forward forward-control forwarding key-options keyscan "
        "login-timeout multiplex reconfigure reexec sftp-chroot sftp-uri"
    ).split()
    # They have the client start an sshd at the other end of a pipe. Here it is at the other end of a connection.
    BY_PIPE = (
        "banner broken-pipe envpass exit-status exit-status-signal forcecommand "
        "stderr-after-eof stderr-data transfer try-ciphers yes-head"
    ).split()

    def version(self):
        return package_version("openssh-server").split(":")[-1]

    def serve(self, place):
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        # The shell at the other end reads what its user has set up, which may take long or print. Nobody else sees these mounts.
        for name in (".bashrc", ".bash_profile", ".bash_login", ".profile"):
            path = os.path.join(os.path.expanduser("~root"), name)
            if os.path.exists(path) and place.run(["mount", "--bind", "/dev/null", path])[0] != 0:
                raise proc.Failed(f"{path} cannot be hidden")
        # sshd comes and goes with each script.
        self.server = proc.free_port()
        return self.server

    def run(self, place, port):
        scripts = place.path("regress")
        shutil.copytree(self.SUITE, scripts, symlinks=True)
        with open(os.path.join(scripts, "test-exec.sh")) as file:
            text = file.read()
        # The server's port is another one than the client's, and with a server of ours the client connects to it.
        text, ports = re.subn(r"\tPort\t\t\t\$PORT", "\tPort\t\t\t$TEST_SSHD_PORT", text, count=1)
        pipe = r"echo proxycommand \$\{SUDO\} env .*sshd_proxy$"
        connected, pipes = re.subn(pipe, "echo proxycommand $NC 127.0.0.1 $PORT", text, flags=re.MULTILINE)
        if (ports, pipes) != (1, 1):
            raise proc.Failed("test-exec.sh is not as this suite knows it")
        place.write(os.path.join("regress", "by-port.sh"), text)
        place.write(os.path.join("regress", "by-pipe.sh"), connected)
        settings = {"TEST_SSHD_PORT": str(self.server), "TEST_SSH_PORT": str(port), "SUDO": "", "TEST_SHELL": "sh", "TEST_SSH_SSH": "ssh"}
        settings |= {"TEST_SSH_SFTPSERVER": "/usr/lib/openssh/sftp-server", "TEST_SSH_UNSAFE_PERMISSIONS": "1"}
        settings |= {"OBJ": scripts, "BUILDDIR": scripts, "PATH": os.environ.get("PATH", "") + ":/usr/sbin"}
        environment = {**os.environ, **settings}
        tests = {}

        def test(name, manner):
            argv = ["sh", os.path.join(scripts, manner), scripts, os.path.join(scripts, f"{name}.sh")]
            try:
                code, told = place.run(argv, 600, cwd=scripts, env=environment)
            except proc.Failed:
                code, told = 1, ""
            if not re.search(r"^SKIPPED", told, re.MULTILINE):
                tests[name] = code == 0

        for name in self.BY_PORT:
            test(name, "by-port.sh")
        wrapper, log = os.path.join(scripts, "sshd-log-wrapper.sh"), os.path.join(scripts, "sshd.log")
        argv = [sys.executable, place.write("inetd.py", INETD), str(self.server), "sh", wrapper, log]
        place.serve([*argv, which("sshd"), "-i", "-f", os.path.join(scripts, "sshd_proxy")], self.server, env=environment)
        for name in self.BY_PIPE:
            test(name, "by-pipe.sh")
        return Outcome(tests)


SUITES = [OpenSsh(), MariaDb(), RedisPy()]
