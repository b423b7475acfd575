#!/usr/bin/env python3
"""Tries the server's page in headless Chromium, through chromedriver (Debian: chromium, chromium-driver).

    browser.py BASE_URL TARGET REFUSED_PORT

TARGET must be three hops away or more, and a router before it refuse datagrams to REFUSED_PORT. Nothing outside BASE_URL
is asked. tests/browser.rs runs this in a network namespace. Environment: AXE, the file axe.min.js, which checks
accessibility; SCREENSHOTS, a folder for pictures.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

PORT = 9515
PROBES = 12
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1000,1150""".split()


class Browser:
    """A session of the WebDriver protocol (https://www.w3.org/TR/webdriver2/)."""

    def __init__(self, profile):
        self.session = ""
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
        always = {"browserName": "chrome", "goog:chromeOptions": options}
        always["goog:loggingPrefs"] = {"browser": "ALL"}
        created = self.call("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self.session = "/session/" + created["sessionId"]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{PORT}{self.session}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)["value"]

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": arguments})

    def wait(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not self.run("return " + condition):
            if time.monotonic() > deadline:
                raise AssertionError(f"{condition}\n{self.run('return document.body.innerText')}")
            time.sleep(0.05)

    def trace(self, target):
        self.run("document.getElementById('target').value = arguments[0]", target)
        self.run("document.getElementById('form').requestSubmit()")

    def emulate(self, command, **parameters):
        body = {"cmd": command, "params": parameters}
        return self.call("POST", "/goog/cdp/execute", body)

    def picture(self, name, width=1000, height=1150, dark=False):
        """Takes a picture of the page, and has its accessibility checked as it looks then."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.emulate("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.emulate("Emulation.setDeviceMetricsOverride", **size)
        with open(os.path.join(os.environ["SCREENSHOTS"], name + ".png"), "wb") as file:
            file.write(base64.b64decode(self.call("GET", "/screenshot")))
        with open(os.environ["AXE"], encoding="utf-8") as file:
            # Not as a script of the page, whose policy forbids it.
            self.emulate("Runtime.evaluate", expression=file.read())
        found = self.call("POST", "/execute/async", {"script": AXE_RUN, "args": []})
        assert found == [], (name, found)
        overflow = self.run("return document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, f"{name}: wider than the screen by {overflow}"


STATUS = "document.getElementById('status').textContent"
AXE_RUN = """const done = arguments[0];
    axe.run({ resultTypes: ['violations'] }).then((result) => done(result.violations.map((violation) =>
        [violation.id, violation.help, violation.nodes.map((node) => node.html)])), (error) => done([String(error)]));"""
# Two runs over two of three paths.
BALANCED = """begin(3);
    for (const [run, second] of [[0, '192.0.2.7'], [1, '192.0.2.8'], [2, '192.0.2.7']]) {
        hop(1, run, '192.0.2.1', 0.4 + run / 10, false, ['gateway.example.net']);
        hop(2, run, second, 3 + 2 * run, false, [], run === 1 ? ['MPLS'] : []);
        hop(3, run, '198.51.100.9', 12 + run, true);
    }
    trace.e2e = [12, 0, 13];
    drawPath(); drawPlot();"""


def try_page(browser, base, target, refused_port):
    browser.call("POST", "/url", {"url": base + "/"})
    browser.run("document.getElementById('probes').value = arguments[0]", PROBES)

    browser.trace(target)
    browser.wait("document.querySelectorAll('.hop').length >= 3")
    assert browser.run(f"return {STATUS}") == "Tracing…", "hops are drawn only at the end"
    browser.wait(f"{STATUS} === 'Done.'", 120)
    assert browser.run("return document.querySelectorAll('.hop.destination').length") == 1
    assert browser.run("return document.querySelectorAll('.dot, .lost').length") == PROBES
    assert browser.run("return [...document.querySelectorAll('td.loss')].map((cell) => cell.textContent)")[0] == "0.0 %"
    print(browser.run("return document.getElementById('path').innerText"))
    print(browser.run("return document.getElementById('summary').textContent"))
    browser.picture("wide")
    browser.picture("narrow", 380, 900)
    browser.picture("dark", dark=True)

    # The address of the page is that of the trace: opened by its user, it runs at once.
    address = browser.call("GET", "/url")
    assert f"target={target}" in address, address
    browser.call("POST", "/url", {"url": address})
    browser.wait("document.querySelectorAll('.hop').length > 0")
    assert browser.run("return document.querySelectorAll('#history li').length") == 1, "the session is remembered"
    # Where another site leads here, nothing is traced.
    elsewhere = f'<a id="link" href="{address}">link</a>'
    browser.call("POST", "/url", {"url": "data:text/html," + urllib.parse.quote(elsewhere)})
    browser.run("document.getElementById('link').click()")
    browser.wait(f"document.readyState === 'complete' && {STATUS} === 'Filled in from the address; press Trace.'")
    assert browser.run("return document.getElementById('target').value") == target

    # A refusing router: why the path ends is said, and nothing is left of the target before.
    browser.run("document.getElementById('port').value = arguments[0]", refused_port)
    browser.trace(target)
    browser.wait(f"{STATUS} === 'Done.'", 120)
    text = browser.run("return document.getElementById('results').innerText")
    assert "Destination not reached: !X from " in text, text
    assert "RTT 0" not in text and "answered" in text, text
    browser.picture("unreachable")

    browser.run(BALANCED)
    assert browser.run("return [...document.querySelectorAll('.hop')].map((row) => row.cells[0].textContent)") == ["1", "2", "", "3"]
    browser.picture("balanced")

    # Names come from whoever runs a name server.
    browser.run("""begin(1);
        hop(1, 0, '<img src=x onerror=window.injected=1>', 1, false, ['<script>window.injected=1</script>']);
        drawPath();""")
    assert browser.run("return document.querySelectorAll('#path img, #path script').length") == 0
    assert browser.run("return document.querySelector('.address').textContent").startswith("<img")
    # And if something were injected nevertheless, it could neither run nor load anything.
    browser.run("""const script = document.createElement('script');
        script.textContent = 'window.injected=1';
        const image = document.createElement('img');
        image.onerror = () => window.refused = true;
        image.src = 'http://192.0.2.1/x.png';
        document.body.append(script, image);""")
    browser.wait("window.refused")
    assert browser.run("return window.injected") is None
    log = [entry["message"] for entry in browser.call("POST", "/se/log", {"type": "browser"})]
    policy = "Content Security Policy"
    assert len(log) == 2 and all(policy in message for message in log), log

    browser.call("POST", "/url", {"url": base + "/"})
    browser.run(BALANCED)
    browser.trace("bad host")
    browser.wait("document.getElementById('status').classList.contains('bad')")
    assert "bad host" in browser.run(f"return {STATUS}")
    assert browser.run("return document.getElementById('results').hidden"), "results of another target are shown"
    browser.picture("failed")

    browser.trace(target)
    browser.wait("!document.getElementById('stop').disabled && document.querySelectorAll('.hop').length > 0")
    browser.run("document.getElementById('stop').click()")
    browser.wait(f"{STATUS} === 'Stopped.'")

    # Going back fills in the form as that address says, and leaves no result of another one.
    browser.run("""history.pushState(null, '', '?target=first.example&protocol=none');
        history.pushState(null, '', '?target=second.example');
        document.getElementById('port').value = 53;""")
    browser.run(BALANCED + "history.back();")
    browser.wait("document.getElementById('target').value === 'first.example'")
    form = "['port', 'protocol'].map((id) => document.getElementById(id).value)"
    assert browser.run("return " + form) == ["33434", "udp"], "left over from another address"
    assert browser.run("return document.getElementById('results').hidden"), "results of another address are shown"


def wait_for_answer(url):
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


def main():
    base, target, refused_port = sys.argv[1:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen(["chromedriver", f"--port={PORT}"], stdout=subprocess.DEVNULL)
        try:
            wait_for_answer(f"http://127.0.0.1:{PORT}/status")
            wait_for_answer(base + "/health")
            browser = Browser(profile)
            try:
                try_page(browser, base, target, refused_port)
            finally:
                browser.call("DELETE", "")
        finally:
            driver.terminate()
            driver.wait()


main()
