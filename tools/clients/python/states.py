"""Hooks of schemathesis: every operation meets a VM in every state, and a body that fits the schema is always understood.

Reads VMTEST_SOCKET, the API's socket, and VMTEST_KERNEL, a kernel that does nothing; without the latter no VM is booted.
"""

import collections
import http.client
import itertools
import json
import os
import socket

import schemathesis

KERNEL = os.environ.get("VMTEST_KERNEL")
CONFIG = {
    "payload": {"kernel": KERNEL or "/no/kernel"},
    "memory": {"size": 16 << 20},
    "serial": {"mode": "Null"},
    "console": {"mode": "Off"},
}
# The calls that lead to each state.
WAYS = {
    None: ["vm.delete"],
    "Created": ["vm.delete", "vm.create"],
    "Running": ["vm.delete", "vm.create", "vm.boot"],
    "Paused": ["vm.delete", "vm.create", "vm.boot", "vm.pause"],
}
# Booted ones first: of an operation without a body there are few cases, and where nothing boots the others have their turn.
STATES = ["Running", "Paused", "Created", None] if KERNEL else [None, "Created"]

# For each operation, the states one after the other.
turns = collections.defaultdict(lambda: itertools.cycle(STATES))


class Api(http.client.HTTPConnection):
    """The API, apart from the connection that schemathesis uses."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["VMTEST_SOCKET"])

    def call(self, method, verb, body=None):
        self.request(method, f"/api/v1/{verb}", body and json.dumps(body))
        reply = self.getresponse()
        return reply.status, reply.read()


api = Api("localhost")


def bring_to(state):
    """Does nothing to a VM of ours that is in the state already."""
    status, info = api.call("GET", "vm.info")
    info = json.loads(info) if status == 200 else {"state": None}
    is_ours = state is None or info.get("config", {}).get("payload") == CONFIG["payload"]
    if info["state"] == state and is_ours:
        return
    for verb in WAYS[state]:
        status, text = api.call("PUT", verb, CONFIG if verb == "vm.create" else None)
        assert status == 204, f"{verb}: {status} {text}"


@schemathesis.hook
def before_call(context, case, kwargs):
    bring_to(next(turns[case.operation.label]))


@schemathesis.hook
def after_call(context, case, response):
    """What was created can be booted, or is refused for a reason of its own."""
    if case.operation.path == "/vm.create" and response.status_code == 204:
        status, text = api.call("PUT", "vm.boot")
        assert status in (204, 400, 501, 503), f"{status} {text} after {case.body}"


@schemathesis.check
def what_fits_the_schema_is_understood(ctx, response, case):
    """A 400 in answer to a body of the right shape names a broken rule of the configuration, never the shape."""
    if response.status_code == 400 and case.meta and case.meta.generation.mode.is_positive:
        code = response.headers.get("x-error-code", ["none"])[0]
        # Descriptors come beside the body, which no schema describes and no TCP connection carries.
        assert code == "invalid_config" or "file descriptors came" in response.text, f"{code}: {response.text}"
