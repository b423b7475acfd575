#!/usr/bin/env python3
"""Tries the server's page in headless Chromium, through chromedriver (Debian: chromium, chromium-driver).

    browser.py BASE_URL TARGET SCREENSHOT

TARGET must be three hops away or more. Nothing outside BASE_URL is asked. tests/browser.rs runs this in a network
namespace.
"""

import base64
import json
import subprocess
import sys
import tempfile
import time
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


STATUS = "document.getElementById('status').textContent"


def try_page(browser, base, target, screenshot):
    browser.call("POST", "/url", {"url": base + "/"})
    browser.run("document.getElementById('probes').value = arguments[0]", PROBES)

    browser.trace(target)
    browser.wait("document.querySelectorAll('.hop').length >= 3")
    assert browser.run(f"return {STATUS}") == "Tracing…", "hops are drawn only at the end"
    browser.wait(f"{STATUS} === 'Done.'", 120)
    assert browser.run("return document.querySelectorAll('.hop.destination').length") == 1
    assert browser.run("return document.querySelectorAll('.dot, .lost').length") == PROBES
    print(browser.run("return document.getElementById('path').innerText"))
    print(browser.run("return document.getElementById('summary').textContent"))
    with open(screenshot, "wb") as file:
        file.write(base64.b64decode(browser.call("GET", "/screenshot")))

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

    browser.trace("bad host")
    browser.wait("document.getElementById('status').classList.contains('bad')")
    assert browser.run(f"return {STATUS}").startswith("Invalid parameters: ")

    browser.trace(target)
    browser.wait("!document.getElementById('stop').disabled && document.querySelectorAll('.hop').length > 0")
    browser.run("document.getElementById('stop').click()")
    browser.wait(f"{STATUS} === 'Stopped.'")


def wait_for_answer(url):
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


def main():
    base, target, screenshot = sys.argv[1:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen(["chromedriver", f"--port={PORT}"], stdout=subprocess.DEVNULL)
        try:
            wait_for_answer(f"http://127.0.0.1:{PORT}/status")
            wait_for_answer(base + "/health")
            browser = Browser(profile)
            try:
                try_page(browser, base, target, screenshot)
            finally:
                browser.call("DELETE", "")
        finally:
            driver.terminate()
            driver.wait()


main()
