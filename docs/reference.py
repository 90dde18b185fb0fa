#!/usr/bin/env python3
"""Prints docs/reference.md, made from what the program says of itself.

    docs/reference.py balance.1 > docs/reference.md

balance.1 is the manual page; the program itself (target/debug/balance) will do as well.
"""
import re
import subprocess
import sys

HEAD = """\
# Reference

This page is made from the program's own texts by [`reference.py`](reference.py). `man balance` has the same.

Contents: [Options](#options) · [Channels](#channels) · [Commands](#commands) · [Exit codes](#exit-codes) · [Signals](#signals) · [Files](#files) ·
[Protocol](#protocol) · [Messages](#messages)
"""

TAIL = """
## Protocol

The control socket takes the commands above as lines of text, so that `socat` and scripts can speak to it: [control.md](control.md#the-protocol). JSON answers have a
schema: [json.md](json.md).

## Messages

| message | where |
|---|---|
| events in the log, such as `event=ejected` | [observability.md](observability.md#events) |
| how a connection ended, such as `client closed` | [observability.md](observability.md#how-a-connection-ends) |
| what commands answer | [control.md](control.md#commands) |
| what is wrong in a file of services | [file.md](file.md#when-something-is-wrong) |
| words, such as channel or ejected | [glossary.md](glossary.md) |
"""


def plain(roff):
    text = re.sub(r"\\f[BIRP]", "", roff)
    for code, char in (("\\-", "-"), ("\\*(Aq", "'"), ("\\&", ""), ("\\\\", "\\"), ("\\e", "\\")):
        text = text.replace(code, char)
    return text.strip()


def safe(text):
    """Text as Markdown shows it unchanged."""
    return re.sub(r"([*_<>|])", r"\\\1", text)


def with_example(text):
    match = re.fullmatch(r"(.*?)\s*Example: (.*)", text, re.S)
    if not match:
        return safe(text), None
    return safe(match[1]), match[2]


def sections(page):
    found = {}
    for part in page.split("\n.SH ")[1:]:
        title, _, body = part.partition("\n")
        found[title.strip('"')] = body
    return found


def terms(body):
    for part in body.split(".TP\n")[1:]:
        term, _, text = part.partition("\n")
        text = text.split("\n.", 1)[0] if "\n.SH" in text else text
        yield plain(term), [plain(paragraph) for paragraph in text.split("\n\n") if plain(paragraph)]


def main():
    if sys.argv[1].endswith(".1"):
        with open(sys.argv[1]) as file:
            page = file.read()
    else:
        page = subprocess.run([sys.argv[1], "--man"], check=True, capture_output=True, text=True).stdout
    parts = sections(page)
    out = [HEAD]

    def option(term, paragraphs):
        out.append(f"\n### `{term}`\n")
        for paragraph in paragraphs:
            text, example = with_example(paragraph.replace("\n", " "))
            if text:
                out.append(f"\n{text}\n")
            if example:
                out.append(f"\n```\n{example}\n```\n")

    options = list(terms(parts["OPTIONS"]))
    out.append("\n## Options\n")
    for term, paragraphs in options:
        if term.startswith("-"):
            option(term, paragraphs)
    out.append("\n## Channels\n")
    for term, paragraphs in options:
        if not term.startswith("-"):
            option(term, paragraphs)
    for title, heading, first in (
        ("COMMANDS", "Commands", "command"),
        ("EXIT STATUS", "Exit codes", "code"),
        ("SIGNALS", "Signals", "signal"),
        ("FILES", "Files", "file"),
    ):
        out.append(f"\n## {heading}\n\n| {first} | meaning |\n|---|---|\n")
        for term, paragraphs in terms(parts[title]):
            term = term.replace("|", "\\|")
            out.append(f"| `{term}` | {safe(' '.join(paragraphs))} |\n")
    out.append(TAIL)
    sys.stdout.write("".join(out))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main()
