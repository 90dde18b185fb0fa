"""The page of balance in a real browser: headless Chromium, driven by WebDriver over plain HTTP.

Arguments: the address of the page, its token, perhaps a directory for screenshots, and perhaps the command that shows the channels. Ends with
`ok`, or with what is wrong."""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

PATIENCE = 60
base, token = sys.argv[1].rstrip("/"), sys.argv[2]
shots = sys.argv[3] if len(sys.argv) > 3 else None
show = sys.argv[4:]
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Driver:
    def __init__(self, profile):
        self.log = open(os.path.join(profile, "chromedriver.out"), "w+")
        self.process = subprocess.Popen(["chromedriver", "--port=0"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)
        port = self.wait("chromedriver listens", self.port)
        self.url = f"http://127.0.0.1:{port}"
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-proxy-server",
            "--window-size=1280,1000", f"--user-data-dir={profile}/data",
        ]
        options = {"args": arguments, "perfLoggingPrefs": {"enableNetwork": True}}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.url += "/session/" + session["sessionId"]

    def port(self):
        assert self.process.poll() is None, "chromedriver has ended: " + open(self.log.name).read()
        found = re.search(r"started successfully on port (\d+)", open(self.log.name).read())
        return found and int(found[1])

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            return json.load(direct.open(request, timeout=PATIENCE))["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path} {body}: {error.read().decode()[:2000]}") from None

    def wait(self, what, fact):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = fact()
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"not within {PATIENCE} s: {what}")

    def js(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def cdp(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def go(self, path):
        self.call("POST", "/url", {"url": base + path})

    def find(self, selector):
        def found():
            try:
                return self.call("POST", "/element", {"using": "css selector", "value": selector})
            except AssertionError as error:
                if "no such element" in str(error):
                    return None
                raise
        return list(self.wait(selector, found).values())[0]

    def click(self, selector):
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector, text):
        self.call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def text(self, selector):
        return self.js("const one = document.querySelector(arguments[0]); return one && one.textContent", selector) or ""

    def await_text(self, selector, part):
        self.wait(f"{part!r} in {selector}", lambda: part in self.text(selector))

    def shoot(self, name, width, height, dark=False, mobile=False):
        if not shots:
            return
        value = "dark" if dark else "light"
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        picture = self.cdp("Page.captureScreenshot", format="png", clip={"x": 0, "y": 0, "width": width, "height": height, "scale": 1})
        with open(os.path.join(shots, name), "wb") as file:
            file.write(base64.b64decode(picture["data"]))
        self.cdp("Emulation.clearDeviceMetricsOverride")
        self.cdp("Emulation.setEmulatedMedia", features=[])

    def end(self):
        try:
            self.call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait()


def live(browser):
    browser.go("/")
    browser.await_text("#live", "live")
    first = browser.text("#taken")
    browser.wait("the page brings itself up to date", lambda: browser.text("#taken") not in ("", first))


def click(browser):
    row = "#service-0-0-1"
    assert "ENA" in browser.text(row), browser.text(row)
    browser.click(f"{row} button[data-command='disable 1']")
    # A wrong token first.
    browser.type("#token", "x" * 20)
    browser.click("#login button[value=yes]")
    browser.await_text("#toast", "the token is wrong")
    assert "ENA" in browser.text(row), browser.text(row)
    assert browser.js("return sessionStorage.length") == 0
    browser.click(f"{row} button[data-command='disable 1']")
    # Enter signs in.
    browser.type("#token", token + "\n")
    browser.await_text("#toast", "channel 1 disabled")
    browser.await_text(row, "dis")
    if show:
        shown = subprocess.run(show, capture_output=True, text=True, check=True).stdout
        assert [line.split()[3] for line in shown.splitlines()[1:]] == ["ENA", "dis"], shown
    browser.find(f"{row} button[data-command='enable 1']")
    # The token is kept in this tab, and nowhere that a request takes it along by itself.
    assert browser.js("return document.cookie + localStorage.length") == "0"
    # Enter in a field sets what is in it; so does the button beside it. What is not allowed is not sent.
    def change(what, value, is_by_key):
        browser.click(f"{row} button[data-more]")
        browser.js("document.getElementById(arguments[0]).value = ''", f"more-{what}")
        browser.type(f"#more-{what}", "\n")
        assert browser.js("return document.getElementById('more').open"), "nothing was typed"
        browser.type(f"#more-{what}", value + ("\n" if is_by_key else ""))
        if not is_by_key:
            browser.click(f"#more button[data-verb={what}]")
        browser.wait(f"{what} {value}", lambda: browser.js(f"return document.querySelector('{row} .acts').dataset.{what}") == value)
        assert not browser.js("return document.getElementById('more').open"), "the dialog stays"
    change("weight", "9", False)
    change("weight", "7", True)
    change("maxc", "55", True)
    # Leaving changes nothing.
    browser.click(f"{row} button[data-more]")
    browser.click("#more button[data-leave]")
    browser.wait("the dialog is gone", lambda: not browser.js("return document.querySelector('dialog[open]')"))
    browser.click("#sign")
    browser.click("#sign")
    browser.type("#token", token)
    browser.click("#login button[data-leave]")
    browser.wait("the dialog is gone", lambda: not browser.js("return document.querySelector('dialog[open]')"))
    assert browser.js("return sessionStorage.length") == 0, "left and signed in"
    browser.click("#sign")
    browser.type("#token", token + "\n")
    browser.wait("signed in", lambda: browser.js("return sessionStorage.length") == 1)
    # By keyboard: the dialog has the focus, and Escape changes nothing.
    browser.click(f"{row} button[data-more]")
    browser.click("#more button[data-verb=kick]")
    browser.await_text("#ask-title", "Kick channel 1?")
    browser.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": [{"type": "keyDown", "value": "\ue00c"}, {"type": "keyUp", "value": "\ue00c"}]}]})
    browser.wait("the dialog is gone", lambda: not browser.js("return document.querySelector('dialog[open]')"))
    browser.type("form.command input[name=command]", "status\n")
    browser.await_text("#answer", "c/maxc")
    assert not browser.js("return document.querySelector('.nojs').offsetParent"), "the token is asked for twice"


def stays(browser):
    # What has the focus keeps it when the page brings itself up to date.
    browser.js("document.querySelector('#service-0-0-1 button[data-more]').focus(); window.seen = document.activeElement")
    first = browser.text("#taken")
    browser.wait("a newer page", lambda: browser.text("#taken") != first)
    assert browser.js("return document.activeElement === window.seen && window.seen.isConnected"), "the focus is lost"
    browser.js("Object.defineProperty(document, 'hidden', {get: () => true, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))")
    browser.await_text("#live", "paused")
    browser.js("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    browser.await_text("#live", "live")


def names(browser):
    """All that can be reached has a name that a screen reader says."""
    nodes = browser.cdp("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "link", "textbox", "combobox", "spinbutton", "image", "img", "table", "region"}
    seen = set()
    for node in nodes:
        role = node.get("role", {}).get("value")
        if node.get("ignored") or role not in roles:
            continue
        seen.add(role)
        name = node.get("name", {}).get("value", "").strip()
        assert name or role == "table", f"no name: {node}"
    assert {"button", "link", "textbox", "region"} <= seen, seen
    headings = browser.js("return [...document.querySelectorAll('h1, main h2')].map((one) => one.tagName).join(' ')")
    assert headings.startswith("H1 H2"), headings
    too_wide(browser, "a window")


def too_wide(browser, what):
    """Only tables may be wider than the window, and they scroll by themselves."""
    wide = browser.js("""
        const width = document.documentElement.clientWidth;
        const is_out = (one) => one.getBoundingClientRect().right > width + 1 && !one.closest('.scroll, .plot, .answer, dialog');
        return [...document.querySelectorAll('body *')].filter(is_out).map((one) => one.tagName + '.' + one.className + ' ' + one.getBoundingClientRect().right)
    """)
    assert not wide, f"too wide for {what}: {wide}"
    assert browser.js("return document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, what


def phone(browser):
    browser.cdp("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    browser.go("/")
    too_wide(browser, "a phone")
    browser.cdp("Emulation.clearDeviceMetricsOverride")


def plain(browser):
    browser.cdp("Emulation.setScriptExecutionDisabled", value=True)
    browser.go("/?sort=id")
    browser.type("form.command input[name=command]", "enable 1")
    browser.type("form.command input[name=token]", token)
    browser.click("form.command button")
    source = browser.wait("the answer", lambda: (lambda text: text if "answer" in text and "<pre" in text and "Done." in text else None)(browser.call("GET", "/source")))
    assert "channel 1 enabled" in source, source
    browser.click("p.trail a")
    browser.find("#service-0-0-1")
    browser.cdp("Emulation.setScriptExecutionDisabled", value=False)


def quiet(browser):
    """Nothing was asked of anybody else, and nothing was wrong."""
    urls = []
    for entry in browser.call("POST", "/se/log", {"type": "performance"}):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            urls.append(message["params"]["request"]["url"])
    others = [url for url in urls if not url.startswith((base + "/", "data:", "about:", "chrome:"))]
    assert len(urls) > 10 and not others, (len(urls), others)
    said = browser.call("POST", "/se/log", {"type": "browser"})
    # A wrong token is answered with 401, which the browser tells of by itself.
    wrong = [entry for entry in said if "401" not in entry["message"]]
    assert not wrong, wrong


def pictures(browser):
    if not shots:
        return
    browser.go("/")
    browser.await_text("#live", "live")
    browser.shoot("page-light.png", 1280, 1000)
    browser.shoot("page-dark.png", 1280, 1000, dark=True)
    browser.shoot("page-phone.png", 390, 900, mobile=True)


with tempfile.TemporaryDirectory() as profile:
    browser = Driver(profile)
    try:
        for part in [live, click, stays, names, phone, plain, quiet, pictures]:
            part(browser)
        print("ok")
    finally:
        browser.end()
