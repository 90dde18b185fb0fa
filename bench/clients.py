"""Other projects' clients that check what they receive: fio over NBD, mbsync, telnet's Synch, testssl.sh.

Knows: their command lines, their servers' configuration, what counts as a test. Never: what is between them and their server.
"""

import email.message
import hashlib
import json
import os
import random
import re
import select
import shutil
import socket
import sys

import proc
from place import HOST, INETD, Outcome, noise, package_version, which

# --- NBD -------------------------------------------------------------------------------------------------------------


class Nbd:
    name, title = "nbd", "fio --verify and nbdcopy over NBD, against nbdkit"
    packages = {"fio": "fio", "nbdkit": "nbdkit", "nbdcopy": "libnbd-bin"}
    SIZE = 128 << 20

    def version(self):
        return f"fio {package_version('fio')}, nbdkit {package_version('nbdkit')}"

    def serve(self, place):
        port = proc.free_port()
        return place.serve(["nbdkit", "--foreground", "--ipaddr", HOST, "--port", str(port), "memory", str(self.SIZE)], port)

    def run(self, place, port):
        tests, uri = {}, f"nbd://{HOST}:{port}/"
        argv = ["fio", "--name=a", "--ioengine=nbd", f"--uri={uri}", f"--size={self.SIZE}", "--do_verify=1", "--verify_fatal=1"]
        argv += ["--output-format=json", "--randseed=6"]
        for name, words in (
            ("write of 4 KiB blocks, one at a time", ["--rw=write", "--bs=4k", "--iodepth=1", "--verify=crc32c", "--io_size=8m"]),
            ("write of 1 MiB blocks, 16 at a time", ["--rw=write", "--bs=1m", "--iodepth=16", "--verify=sha256"]),
            ("random writes of 4 KiB, 32 at a time", ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--verify=crc32c", "--io_size=32m"]),
            ("random writes of 512 to 256 KiB", ["--rw=randwrite", "--bsrange=512-256k", "--iodepth=16", "--verify=md5", "--io_size=64m"]),
            ("random reads and writes", ["--rw=randrw", "--bs=16k", "--iodepth=16", "--verify=xxhash", "--io_size=64m"]),
        ):
            code, told = place.run([*argv, *words])
            try:
                job = json.loads(told[told.index("{") :])["jobs"][0]
                tests[name] = code == 0 and job["error"] == 0 and job["read"]["total_ios"] > 0 and job["write"]["total_ios"] > 0
            except (ValueError, KeyError):
                tests[name] = False
        for name, data in (("there", noise(self.SIZE, 8)), ("back", None)):
            if data:
                place.write_bytes(name, data)
            words = [place.path(name), uri] if data else [uri, place.path(name)]
            tests[f"nbdcopy {name}"] = place.run(["nbdcopy", *words])[0] == 0
        tests["the copies are equal"] = digest(place.path("there")) == digest(place.path("back"))
        return Outcome(tests)


def digest(path):
    """The checksum of a file, or None if it does not exist."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


# --- IMAP ------------------------------------------------------------------------------------------------------------


class Imap:
    name, title = "imap", "mbsync against Dovecot: 400 mails of 1 KB to 1 MB"
    packages = {"mbsync": "isync", "dovecot": "dovecot-core"}
    files = {"/usr/lib/dovecot/imap": "dovecot-imapd"}
    COUNT = 400

    def version(self):
        return f"isync {package_version('isync')}, Dovecot {package_version('dovecot-imapd').split(':')[-1]}"

    def serve(self, place):
        port = proc.free_port()
        os.makedirs(place.path("mail"))
        shutil.chown(place.path("mail"), "mail", "mail")
        place.write("users", "a:{PLAIN}b\n")
        config = f"""base_dir = {place.path("run")}
state_dir = {place.path("state")}
log_path = {place.path("dovecot.log")}
protocols = imap
listen = {HOST}
ssl = no
disable_plaintext_auth = no
first_valid_uid = 1
mail_location = maildir:{place.path("mail", "%u")}
passdb {{
  driver = passwd-file
  args = {place.path("users")}
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={place.path("mail", "%u")}
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""
        return place.serve(["dovecot", "-F", "-c", place.write("dovecot.conf", config)], port)

    def run(self, place, port):
        tests, draw = {}, random.Random(9)
        for name in ("left", "right"):
            for kind in ("cur", "new", "tmp"):
                os.makedirs(place.path(name, "INBOX", kind))
            place.write(
                f"{name}.rc",
                f"""IMAPAccount a
Host {HOST}
Port {port}
User a
Pass b
SSLType None
AuthMechs LOGIN
Timeout 60

IMAPStore far
Account a

MaildirStore near
Path {place.path(name)}/
Inbox {place.path(name, "INBOX")}

Channel c
Far :far:
Near :near:
Patterns INBOX
Create Both
Expunge Both
SyncState *
""",
            )
        for number in range(self.COUNT):
            size = 1_000_000 if number % 100 == 0 else draw.randrange(500, 20_000)
            mail = email.message.EmailMessage()
            mail["Subject"], mail["From"], mail["To"] = f"mail {number}", "a@example.org", "b@example.org"
            mail["Message-ID"] = f"<{number}@example.org>"
            mail.set_content(draw.randbytes(size), "application", "octet-stream")
            place.write_bytes(os.path.join("left", "INBOX", "cur", f"{number}.a.b:2,"), mail.as_bytes())

        def sync(name):
            return place.run(["mbsync", "-c", place.path(f"{name}.rc"), "-a"])[0] == 0

        wanted = mails(place.path("left", "INBOX"))
        tests["push"] = sync("left") and mails(place.path("mail", "a")).keys() == wanted.keys()
        tests["pull"] = sync("right") and mails(place.path("right", "INBOX")).keys() == wanted.keys()
        tests["the mails are equal"] = len(wanted) == self.COUNT and all(
            mails(place.path(*where)).keys() == wanted.keys() for where in (("mail", "a"), ("right", "INBOX"))
        )
        # Seen, answered, flagged on one side; away on the other.
        for number, (path, flags) in enumerate(sorted(mails(place.path("right", "INBOX")).values())):
            if number % 4 == 0:
                os.rename(path, path.split(":2,")[0] + ":2,FRS")
            elif number % 4 == 1:
                os.rename(path, path.split(":2,")[0] + ":2,T")
        tests["changed flags and deleted mails go there"] = sync("right")
        tests["and come back"] = sync("left")
        left, right = (mails(place.path(name, "INBOX")) for name in ("left", "right"))
        same = {key: flags for key, (_, flags) in left.items()} == {key: flags for key, (_, flags) in right.items()}
        tests["both sides are equal"] = same and len(left) == self.COUNT * 3 // 4
        tests["flags are set"] = sum(flags == "FRS" for _, flags in left.values()) == self.COUNT // 4
        before = [sorted(value for value in mails(place.path(name, "INBOX")).values()) for name in ("left", "right")]
        quiet = sync("left") and sync("right")
        after = [sorted(value for value in mails(place.path(name, "INBOX")).values()) for name in ("left", "right")]
        tests["nothing is left to do"] = quiet and before == after
        return Outcome(tests)


def mails(directory):
    """The mails of a Maildir by the checksum of the part that does not vary: {checksum: (path, flags)}."""
    found = {}
    for kind in ("cur", "new"):
        for root, _, names in os.walk(os.path.join(directory, kind)):
            for name in names:
                path = os.path.join(root, name)
                with open(path, "rb") as file:
                    text = file.read().replace(b"\r\n", b"\n")
                # mbsync may put a line of its own there.
                text = re.sub(rb"^X-TUID: .*\n", b"", text, count=1, flags=re.MULTILINE)
                found[hashlib.sha256(text).hexdigest()] = (path, name.partition(":2,")[2])
    return found


# --- telnet ----------------------------------------------------------------------------------------------------------

IAC, DONT, WONT, DO, WILL, AYT, IP, DM = (bytes([code]) for code in (255, 254, 252, 253, 251, 246, 244, 242))


class Telnet:
    """The Synch of RFC 854: a command, and a data mark that is sent as urgent data."""

    name, title = "telnet", "telnet's Synch (urgent data both ways), against telnetd"
    packages = {"telnetd": "inetutils-telnetd"}

    def version(self):
        return package_version("inetutils-telnetd").split(":")[-1]

    def serve(self, place):
        port = proc.free_port()
        # What telnetd takes for its login program.
        login = place.write("login", "#!/bin/sh\nexec cat\n")
        os.chmod(login, 0o755)
        argv = [sys.executable, place.write("inetd.py", INETD), str(port), which("telnetd"), "-h", "-E", login]
        return place.serve(argv, port)

    def run(self, place, port):
        tests = {}

        def session(name, steps):
            tests[name] = False
            try:
                with socket.create_connection((HOST, port), timeout=10) as connection:
                    tests[name] = steps(Terminal(connection))
            except (OSError, proc.Failed):
                pass

        session("a line comes back", lambda terminal: terminal.echoes(b"first"))
        for number in range(3):
            session(f"Are You There as a Synch, {number + 1}", are_you_there)
        session("lines after ten Synchs come back whole", ten_times)
        session("what is urgent in the answer to Interrupt Process", interrupted)
        return Outcome(tests)


class Terminal:
    """A client that refuses all options."""

    def __init__(self, connection):
        self.connection, self.seen, self.marks = connection, b"", b""

    def until(self, wanted, patience=10):
        """Reads until the text has come, or, with None, urgent data."""
        while wanted is None or wanted not in self.seen:
            readable, _, urgent = select.select([self.connection], [], [self.connection], patience)
            if urgent:
                self.marks += self.connection.recv(1, socket.MSG_OOB)
                if wanted is None:
                    return True
            if not readable:
                raise proc.Failed("no answer")
            read = self.connection.recv(4096)
            if not read:
                return False
            for verb, option in re.findall(b"\xff([\xfb\xfd])(.)", read, re.DOTALL):
                self.connection.sendall(IAC + (WONT if verb == DO else DONT) + option)
            self.seen += read
        self.seen = self.seen.partition(wanted)[2]
        return True

    def echoes(self, line):
        self.connection.sendall(line + b"\r\n")
        return self.until(line + b"\r\n")

    def synch(self, command):
        self.connection.sendall(IAC + command + IAC)
        self.connection.send(DM, socket.MSG_OOB)


def are_you_there(terminal):
    """The question is answered, and the next line is complete."""
    if not terminal.echoes(b"before"):
        return False
    terminal.synch(AYT)
    return terminal.until(b"[Yes]") and terminal.echoes(b"after")


def ten_times(terminal):
    good = terminal.echoes(b"before")
    for number in range(10):
        terminal.synch(AYT)
        good = good and terminal.until(b"[Yes]") and terminal.echoes(b"line %d" % number)
    return good


def interrupted(terminal):
    """telnetd answers with a Synch of its own, since pending output is void. Its urgent byte is the one before the mark."""
    if not terminal.echoes(b"before"):
        return False
    terminal.synch(IP)
    return terminal.until(None) and terminal.marks == IAC


# --- TLS -------------------------------------------------------------------------------------------------------------


class TestSsl:
    name, title = "testssl", "testssl.sh against nginx with TLS: all that it finds"
    # The others do the same again with other ciphers, and take most of the time.
    SECTIONS = ["--protocols", "--server-defaults", "--server-preference", "--tls-fallback"]
    # What is another one in each run: how long it took, the clock, the certificate. And whether a session can be resumed: straight to
    # the server, too, it says "supported" in one run and "check failed" in another.
    PASSING = re.compile(
        r"scanTime|TLS_timestamp|HTTP_clock_skew|HTTP_headerTime|DROWN_hint|cert($|_(serial|fingerprint|not|valid|expir))|sessionresumption", re.I
    )
    packages = {"testssl": "testssl.sh", "nginx": "nginx", "openssl": "openssl"}

    def version(self):
        return package_version("testssl.sh")

    def serve(self, place):
        port = proc.free_port()
        key, certificate = place.path("key"), place.path("crt")
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
        code, told = place.run([*argv, "-keyout", key, "-out", certificate], 60)
        if code != 0:
            raise proc.Failed(f"openssl: {told.strip()[-200:]}")
        temporary = "".join(f"{kind}_temp_path {place.path(kind)};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = f"""user root; daemon off; pid {place.path("pid")}; error_log {place.path("err")};
events {{ worker_connections 1000; }}
http {{ access_log off; {temporary}
  server {{ listen {HOST}:{port} ssl http2; ssl_certificate {certificate}; ssl_certificate_key {key};
    ssl_session_cache shared:a:1m;
    ssl_protocols TLSv1.2 TLSv1.3; return 200 "hello"; }} }}
"""
        return place.serve(["nginx", "-c", place.write("tls.conf", config), "-e", place.path("err")], port)

    def run(self, place, port):
        report = place.path("report.json")
        argv = ["testssl", "--jsonfile", report, "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "--ip", HOST]
        argv += ["--connect-timeout", "30", "--openssl-timeout", "30", *self.SECTIONS, f"localhost:{port}"]
        code, told = place.run(argv, 900)
        try:
            with open(report) as file:
                found = json.load(file)
        except (OSError, ValueError):
            raise proc.Failed(f"testssl.sh: {told.strip()[-200:]}") from None
        tests = {f"{one['id']}: {one['finding']}": True for one in found if not self.PASSING.match(one["id"])}
        return Outcome(tests)


SUITES = [Telnet(), Imap(), Nbd(), TestSsl()]
