"""What schemathesis cannot know of the service."""

import random

import schemathesis

# Targets that exist where the service runs in this test, and one that does not.
TARGETS = ["127.0.0.1", "::1", "[::1]:443", "localhost", "127.0.0.1:80", "192.0.2.1"]


@schemathesis.hook
def before_call(context, case, kwargs):
    """A target made of random letters is hardly ever a host: most requests get one that is."""
    if case.query and case.query.get("target") and random.random() < 0.8:
        case.query["target"] = random.choice(TARGETS)


@schemathesis.check
def server_errors_are_failed_traces(ctx, response, case):
    """Status 500 says that the trace failed, by contract, and 503 that there are too many; others are the service's own."""
    allowed = {500: "Traceroute failed: ", 503: "Too many traces at once"}
    if response.status_code >= 500:
        text = response.content.decode("utf-8", "replace")
        assert allowed.get(response.status_code, "?!") in text, (response.status_code, text)
