"""The program under test, built from this project.

Knows: how cargo is called and where it says the program is. Never: how it is started, what is measured.
"""

import json
import os
import subprocess

import proc

HERE = os.path.dirname(os.path.abspath(__file__))
MANIFEST = os.path.join(os.path.dirname(HERE), "Cargo.toml")


def release():
    """Builds balance and returns its path. Only cargo knows it: the target directory and the target can be set elsewhere."""
    argv = ["cargo", "build", "--release", "--locked", "--bin", "balance", "--manifest-path", MANIFEST]
    argv += ["--message-format", "json-render-diagnostics"]
    try:
        # With what the micro-benchmark needs: later there may be no way out (network.py). Offline it fails, and need not matter.
        subprocess.run(["cargo", "fetch", "--quiet", "--locked", "--manifest-path", MANIFEST], capture_output=True)
        built = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
    except OSError as problem:
        raise proc.Failed(f"cannot run cargo: {problem}") from None
    if built.returncode != 0:
        raise proc.Failed("balance could not be built")
    return program(built.stdout)


def program(messages):
    """The path of the program in cargo's messages."""
    for line in messages.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            return message["executable"]
    raise proc.Failed("cargo did not say where it put balance")
