#!/usr/bin/env python3
"""Pictures of what a person sees of a trace: this tool beside traceroute, mtr and Trippy, on the same simulated networks.

    terminal-pictures.py FOLDER                     all of them, as FOLDER/session-NAME.svg
    terminal-pictures.py --watch FILE TARGET        watches all tools trace TARGET, into FILE (within a network)

Needs pyte (PyPI), and on the PATH traceroute-simnet, datadog-traceroute, traceroute, mtr and trip (`cargo install
--locked trippy`). Needs root, or user namespaces.
"""

import fcntl
import json
import os
import pathlib
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from xml.sax.saxutils import escape

import pyte

SESSIONS = [
    ("ordinary", "An ordinary path", "straight", "198.51.100.11"),
    ("refused", "A router that refuses", "unreachable", "198.51.100.12"),
    ("dead-host", "A host that is down", "dead-host", "198.51.100.11"),
    ("silent", "Silence to the end", "unreachable", "198.51.100.19"),
    ("limits", "Routers that limit their answers", "rate-limit", "198.51.100.11"),
    ("nat", "A NAT that leaves its own addresses in quotes", "nat-untranslated", "198.51.100.11"),
]
TOOLS = [
    ("traceroute", "traceroute -n {}"),
    ("mtr", "mtr --no-dns {}"),
    ("trippy", "trip {}"),
    ("datadog-traceroute", "datadog-traceroute -q 3 -Q 10 --format table {}"),
]
# In seconds; the last one is the end, or when a person has gone.
MOMENTS = [0.1, 1, 5, 30]
COLUMNS, LINES = 78, 24


def watch(command):
    """What the screen shows at each moment, and when that was, or the command ended."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp("sh", ["sh", "-c", command])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    start, shown, ended = time.monotonic(), [], None
    for moment in MOMENTS:
        while ended is None and (left := start + moment - time.monotonic()) > 0:
            if not select.select([terminal], [], [], left)[0]:
                break
            try:
                data = os.read(terminal, 65536)
            except OSError:
                data = b""
            if not data:
                ended = time.monotonic() - start
                break
            stream.feed(data)
        lines = [line.rstrip() for line in screen.display]
        while lines and not lines[-1]:
            lines.pop()
        shown.append((ended, lines))
        if ended is not None:
            break
    if ended is None:
        # With all that it has started: trip goes on without a terminal.
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(terminal)
    return shown


def picture(title, watched):
    """An SVG: a column for each tool, a row for each moment."""
    letter, line, gap, top = 6.6, 14, 24, 64
    width = COLUMNS * letter + 2 * gap
    rows = max(len(shown) for _, shown in watched)
    heights = []
    for row in range(rows):
        most = max((len(shown[row][1]) for _, shown in watched if row < len(shown)), default=0)
        heights.append(max(most, 1) * line + gap * 2)
    height = top + sum(heights)
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(watched):.0f} {height}" font-family="monospace" font-size="11">',
        f'<title>{escape(title)}</title><rect width="100%" height="100%" fill="#15151d"/>',
        f'<text x="{gap}" y="26" fill="#e9e9f2" font-size="16">{escape(title)}</text>',
    ]
    for column, (command, shown) in enumerate(watched):
        x, y = column * width + gap, top
        svg.append(f'<text x="{x:.0f}" y="{y - 12}" fill="#b58ae8">$ {escape(command)}</text>')
        for row, (ended, lines) in enumerate(shown):
            when = f"after {MOMENTS[row]} s" if ended is None else f"ended after {ended:.2f} s"
            svg.append(f'<text x="{x:.0f}" y="{y + 12}" fill="#a0a3b5">{when}</text>')
            for number, text in enumerate(lines):
                place = y + 30 + number * line
                svg.append(f'<text x="{x:.0f}" y="{place}" fill="#e9e9f2" xml:space="preserve">{escape(text)}</text>')
            y += heights[row]
    return "\n".join([*svg, "</svg>"]) + "\n"


def main():
    if sys.argv[1] == "--watch":
        file, target = sys.argv[2:]
        watched = [(command.format(target), watch(command.format(target))) for _, command in TOOLS]
        pathlib.Path(file).write_text(json.dumps(watched), encoding="utf-8")
        return
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, title, topology, target in SESSIONS:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            inside = [sys.executable, os.path.abspath(__file__), "--watch", file.name, target]
            subprocess.run(["traceroute-simnet", "run", topology, "--namespace", "--", *inside], check=True)
            watched = json.loads(pathlib.Path(file.name).read_text(encoding="utf-8"))
        (folder / f"session-{name}.svg").write_text(picture(title, watched), encoding="utf-8")
        for command, shown in watched:
            ended, lines = shown[-1]
            print(f"{name}: {command}: {'still running' if ended is None else f'{ended:.2f} s'}, {len(lines)} lines")


main()
