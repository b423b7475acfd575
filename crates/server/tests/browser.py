#!/usr/bin/env python3
"""Tries the server's page in headless Chromium, through chromedriver (Debian: chromium, chromium-driver).

    browser.py BASE_URL TARGET REFUSED_PORT BALANCED

TARGET must be three hops away or more, and a router before it refuse datagrams to REFUSED_PORT. BALANCED must be after a
balancer over four branches, of which 10.9.13.1 loses packets. Nothing outside BASE_URL is asked. tests/browser.rs runs this in a network namespace. Environment: AXE, the file axe.min.js, which checks
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

    def picture(self, name, width=1000, height=1150, dark=False, of="document.body"):
        """Takes a picture of the page, and has its accessibility checked as it looks then."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.emulate("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.emulate("Emulation.setDeviceMetricsOverride", **size)
        self.run(f"{of}.scrollIntoView()")
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
# How many hops or nodes there were at most while the status was this.
WATCH = """window.drawn = {};
    new MutationObserver(() => {
        const status = document.getElementById('status')?.textContent;
        const count = document.querySelectorAll('.hop, #graph .node').length;
        drawn[status] = Math.max(drawn[status] ?? 0, count);
    }).observe(document, { childList: true, subtree: true });"""
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
    browser.wait(f"{STATUS} === 'Done.'", 120)
    assert browser.run("return drawn['Tracing…']") >= 3, "hops are drawn only at the end"
    assert browser.run("return document.querySelectorAll('.hop.destination').length") == 1
    # Drawn with the next frame.
    browser.wait(f"document.querySelectorAll('.dot, .lost').length === {PROBES}")
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


# A path with all that is rare: silence, balancing per packet, loss, a change, names that are markup.
RARE = """beginPaths();
    const node = (ip_address, more = {}) => ({ ip_address, flows: 8, sent: 9, answered: 8, lost: { silent: 1 },
        rtt: { min: 1, avg: 2.5, max: 4 }, mpls: [], reverse_dns: [], ...more });
    const hop = (ttl, balancing, ...nodes) => ({ ttl, balancing, nodes });
    const loss = { ratio: 0.021, low: 0.01, high: 0.04 };
    const link = (ttl, from, to, loss = null) => ({ ttl, from, to, flows: 8, loss });
    finishPaths({ target: 'example.com', source: { ip_address: '2001:db8::1' }, protocol: 'udp',
        destination: { ip_address: '2001:db8:ffff:ffff:ffff:ffff:ffff:ffff', reached: true, ttl: 5 },
        end: { reason: 'max_ttl', from: null }, probes_sent: 120, duration_ms: 1234, bound: null, path_changed: true,
        hops: [hop(1, 'none', node('2001:db8:1::1', { reverse_dns: ['<img src=x onerror=window.injected=1>'] })),
            hop(2, 'per_packet', node('2001:db8:2::1'), node('2001:db8:2::2')), { ...hop(3, 'none', node('2001:db8:3::1')), hashed: ['source_port', 'flow_label'] },
            hop(4, 'none', node('', { answered: 0, rtt: null })),
            hop(5, 'none', node('2001:db8:ffff:ffff:ffff:ffff:ffff:ffff'))],
        links: [link(1, '2001:db8::1', '2001:db8:1::1', loss), link(4, '2001:db8:3::1', ''),
            link(5, '', '2001:db8:ffff:ffff:ffff:ffff:ffff:ffff')],
        flows: [], loss_begins: [{ ttl: 1, from: '2001:db8::1', to: '2001:db8:1::1', ...loss }] });
    drawGraph();"""
# A wide one, while it grows.
WIDE = """beginPaths();
    addNode(1, '192.0.2.1');
    for (let n = 1; n <= 16; n++) {
        addNode(2, '192.0.2.' + (100 + n)); addLink(2, '192.0.2.1', '192.0.2.' + (100 + n));
        addNode(3, '192.0.2.' + (200 + n)); addLink(3, '192.0.2.' + (100 + n), '192.0.2.' + (200 + n));
    }
    drawGraph();"""
GRAPH = "document.getElementById('graph')"
INFO = "document.getElementById('node-info').innerText"


def try_paths(browser, base, target):
    # From its address, as a bookmark: end-to-end probes only where asked for.
    browser.call("POST", "/url", {"url": f"{base}/?mode=paths&target={target}&confidence=0.9999"})
    browser.wait(f"{STATUS} === 'Done.'")
    assert browser.run("return drawn['Looking for paths…']") >= 3, "the graph is drawn only at the end"
    count = lambda what: browser.run(f"return {GRAPH}.querySelectorAll('{what}').length")
    browser.wait("document.getElementById('paths-summary').innerText.includes(' flows, ')")
    browser.wait(f"{GRAPH}.querySelectorAll('.node').length === 9")
    assert count("path.link") == 11, count("path.link")
    assert count(".destination") == 1
    assert "mode=paths" in browser.call("GET", "/url")

    # A node's figures by pointer and by keyboard.
    node = f"{GRAPH}.querySelector('[data-node=\"3 10.9.12.1\"]')"
    browser.run(f"{node}.dispatchEvent(new PointerEvent('pointerenter'))")
    text = browser.run(f"return {INFO}")
    for part in ["10.9.12.1", "TTL 3", "RTT min ", ", avg ", ", max ", " flows", " probes answered"]:
        assert part in text, (part, text)
    browser.run(f"document.getElementById('node-info').hidden = true; {GRAPH}.querySelector('.node').focus()")
    browser.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": [
        {"type": "keyDown", "value": "\ue004"}, {"type": "keyUp", "value": "\ue004"}]}]})
    text = browser.run(f"return {INFO}")
    assert text.startswith("10.9.1.1 TTL 1") and "RTT min" in text, text
    print(browser.run("return document.getElementById('paths').innerText"))

    # Its loss, measured faster than a user would. One discovery of a hundred takes a lossy node for one that limits its
    # answers, and names no link.
    query = f"target={target}&confidence=0.9999&e2e-queries=200&e2e-interval=5"
    for _ in range(3):
        browser.call("POST", "/execute/async", {"script": """const [query, done] = arguments;
            fetch('/paths?' + query).then((answer) => answer.json()).then((paths) => {
                beginPaths(); finishPaths(paths); drawGraph(); done(); });""", "args": [query]})
        labels = browser.run(f"return [...{GRAPH}.querySelectorAll('.loss-label')].map((label) => label.textContent)")
        if labels:
            break
    assert len(labels) == 1 and labels[0].endswith(" % lost"), labels
    assert count("path.heavy") == 1
    edges = browser.run(f"return [...{GRAPH}.querySelectorAll('.loss-label, [role=group]')].map((part) => part.getBoundingClientRect().right)")
    assert edges[1] <= edges[0], f"the label is cut off: {edges}"
    notes = browser.run("return document.getElementById('paths-notes').innerText")
    assert notes.startswith("Loss begins between 10.9.2.1 and 10.9.13.1: "), notes
    browser.run(f"{node}.focus()")
    browser.picture("paths")
    browser.picture("paths-dark", dark=True)
    browser.picture("paths-narrow", 380, 900, of=GRAPH)

    browser.run(RARE)
    notes = browser.run("return document.getElementById('paths-notes').innerText")
    assert "The path changed meanwhile" in notes and "Balanced per packet at TTL 2" in notes, notes
    label = browser.run(f"return {GRAPH}.querySelector('[data-node=\"3 2001:db8:3::1\"]').getAttribute('aria-label')")
    assert "chosen by source port, flow label" in label, label
    assert (count("img"), browser.run("return window.injected")) == (0, None)
    browser.picture("paths-rare")
    browser.run(WIDE)
    assert browser.run(f"return {GRAPH}.scrollWidth > {GRAPH}.clientWidth"), "a wide graph scrolls"
    browser.picture("paths-wide")
    browser.picture("paths-wide-narrow", 380, 900, of=GRAPH)


def wait_for_answer(url):
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


def start_browser(folder):
    """On a busy machine Chromium may take too long to start; another try has a profile of its own."""
    for attempt in range(2):
        try:
            return Browser(os.path.join(folder, str(attempt)))
        except OSError as error:
            print(f"the browser does not start: {error}", file=sys.stderr)
    return Browser(os.path.join(folder, "last"))


def main():
    base, target, refused_port, balanced = sys.argv[1:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        driver = subprocess.Popen(["chromedriver", f"--port={PORT}"], stdout=subprocess.DEVNULL)
        try:
            wait_for_answer(f"http://127.0.0.1:{PORT}/status")
            wait_for_answer(base + "/health")
            browser = start_browser(folder)
            browser.emulate("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
            try:
                try_page(browser, base, target, refused_port)
                try_paths(browser, base, balanced)
            finally:
                browser.call("DELETE", "")
        finally:
            driver.terminate()
            driver.wait()


main()
