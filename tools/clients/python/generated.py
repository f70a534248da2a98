"""A client generated from docs/openapi.json by openapi-python-client, led by the guest tests: `generated.py SOCKET`.

Speaks what tools/clients/src/main.rs describes. The generated package `vmm_client` lies beside the virtual environment that runs this.
"""

import importlib
import json
import sys
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(sys.prefix) / "generated"))

from vmm_client import Client  # noqa: E402
from vmm_client.models import VmConfig  # noqa: E402

BODIES = {"vm.create": VmConfig}


def operation(verb):
    """The generated module of a verb: `vm.power-button` is `vm_power_button`."""
    name = verb.replace(".", "_").replace("-", "_")
    return importlib.import_module(f"vmm_client.api.{name.split('_')[0]}.{name}")


def call(client, verb, body):
    """What the client told of one call."""
    arguments = {} if body is None else {"body": BODIES[verb].from_dict(body)}
    response = operation(verb).sync_detailed(client=client, **arguments)
    if response.status_code.value >= 300:
        # The errors' own type was read: a list of texts.
        assert isinstance(response.parsed, list), response
        return {"status": response.status_code.value}
    parsed = response.parsed
    return {"reply": parsed.to_dict() if hasattr(parsed, "to_dict") else parsed}


def main(socket):
    client = Client(base_url="http://localhost/api/v1", raise_on_unexpected_status=True)
    transport = httpx.HTTPTransport(uds=socket)
    client.set_httpx_client(httpx.Client(base_url="http://localhost/api/v1", transport=transport, timeout=600))
    for line in sys.stdin:
        verb, _, body = line.strip().partition(" ")
        try:
            answer = call(client, verb, json.loads(body or "null"))
        except Exception as error:  # The test wants to know of anything.
            answer = {"broken": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
