"""What schemathesis cannot know of the service."""

import random
import re

import schemathesis

# Targets that exist where the service runs in this test, and one that does not.
TARGETS = ["127.0.0.1", "::1", "[::1]:443", "localhost", "127.0.0.1:80", "192.0.2.1"]

# Why a trace may fail there, where there is nothing but loopback; any other cause is worth a look.
CAUSES = "|".join(
    [
        # Random letters as a host.
        r"cannot resolve \".*\": .*",
        r"\".*\" has no IPv[46] address",
        # No way to where no interface leads.
        r"cannot find a route( to .*)?: .*",
        # Nobody listens, or does so without SACK.
        r"(SACK traceroute failed fatally, not falling back: )?SACK not supported for this target/source: .*",
        r"(SACK traceroute failed fatally, not falling back: )?.*handshake.*",
        r"not finished within .*, the longest that this server allows",
    ]
)
ALLOWED = {
    500: re.compile(f"(Traceroute failed: )?({CAUSES})(; ({CAUSES}))*"),
    503: re.compile("Too many traces at once: try again later"),
}


@schemathesis.hook
def before_call(context, case, kwargs):
    """A target made of random letters is hardly ever a host: most requests get one that is. The same query always gets
    the same, so that a run can be repeated by its seed."""
    if case.query and case.query.get("target"):
        chosen = random.Random(repr(sorted(case.query.items(), key=str)))
        if chosen.random() < 0.8:
            case.query["target"] = chosen.choice(TARGETS)


@schemathesis.check
def server_errors_are_failed_traces(ctx, response, case):
    """Status 500 says that the trace failed, by contract, and 503 that there are too many; others are the service's own."""
    if response.status_code < 500:
        return
    text = response.content.decode("utf-8", "replace").strip()
    if text.startswith("{"):
        text = response.json()["message"]
    allowed = ALLOWED.get(response.status_code)
    assert allowed and allowed.fullmatch(text), (response.status_code, text)
