"""The program under test, built from this project.

Knows: how cargo is called and where it says the program is. Never: how it is started, what is measured.
"""

import json
import os
import subprocess

import proc

HERE = os.path.dirname(os.path.abspath(__file__))
MANIFEST = os.path.join(os.path.dirname(HERE), "Cargo.toml")


def release(manifest=MANIFEST, environment=None):
    """Builds balance and returns its path, as cargo reports it: the target directory and the target may be configured."""
    argv = ["cargo", "build", "--release", "--locked", "--bin", "balance", "--manifest-path", manifest]
    argv += ["--message-format", "json-render-diagnostics"]
    try:
        # With what the micro-benchmark needs: later there may be no way out (network.py). Offline it fails, and need not matter.
        subprocess.run(["cargo", "fetch", "--quiet", "--locked", "--manifest-path", manifest], capture_output=True)
        built = subprocess.run(argv, stdout=subprocess.PIPE, text=True, env=environment)
    except OSError as problem:
        raise proc.Failed(f"cannot run cargo: {problem}") from None
    if built.returncode != 0:
        raise proc.Failed("balance could not be built")
    return program(built.stdout)


def earlier(name):
    """The path of another build: `name` is its file, or a commit, which is built beside this one."""
    if os.path.exists(name):
        return os.path.abspath(name)
    project = os.path.dirname(MANIFEST)
    found = subprocess.run(["git", "-C", project, "rev-parse", "--verify", "-q", name + "^{commit}"], capture_output=True, text=True)
    commit = found.stdout.strip()
    if not commit:
        raise proc.Failed(f"{name} is neither a file nor a commit")
    place = os.path.join(project, "target", "before")
    sources = os.path.join(place, commit[:12])
    os.makedirs(sources, exist_ok=True)
    packed = subprocess.run(["git", "-C", project, "archive", commit], stdout=subprocess.PIPE)
    if packed.returncode or subprocess.run(["tar", "-x", "-C", sources], input=packed.stdout).returncode:
        raise proc.Failed(f"commit {commit} cannot be unpacked")
    # Where cargo builds this one is none of its business.
    environment = {**os.environ, "CARGO_TARGET_DIR": os.path.join(sources, "target")}
    return release(os.path.join(sources, "Cargo.toml"), environment)


def program(messages):
    """The path of the program in cargo's messages."""
    for line in messages.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            return message["executable"]
    raise proc.Failed("cargo did not say where it put balance")
