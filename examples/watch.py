"""Prints what a daemon's services are, and every change, over TLS: watch.py HOST:PORT

HARNESS_TOKEN has a token (`harness daemon token create NAME --scope read`), HARNESS_FINGERPRINT what `harness daemon status`
shows of the listener's certificate. Needs `websockets` from PyPI.

With asyncio: the blocking client of `websockets` reads in one thread and writes in another, which a TLS connection of Python
before 3.13 doesn't bear (seen: 1 handshake of 40 never got its answer).
"""
import asyncio
import hashlib
import hmac
import json
import os
import ssl
import sys

from websockets.asyncio.client import connect


def pinned(fingerprint):
    """Trusts the certificate with this SHA-256 and no other; the check is part of the handshake, before the token is sent."""

    class Pinned(ssl.SSLObject):
        def do_handshake(self):
            super().do_handshake()
            shown = hashlib.sha256(self.getpeercert(binary_form=True)).hexdigest()
            if not hmac.compare_digest(shown, fingerprint.removeprefix("sha256:").replace(":", "").lower()):
                raise ssl.SSLCertVerificationError(f"the server shows another certificate: sha256:{shown}")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslobject_class = Pinned
    return context


class Daemon:
    """Calls, and the notifications that came in between."""

    def __init__(self, connection):
        self.connection, self.number, self.notes = connection, 0, []

    async def call(self, method, **params):
        self.number += 1
        request = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        await self.connection.send(json.dumps(request))
        while True:
            message = json.loads(await self.connection.recv())
            if message.get("id") != self.number:
                self.notes.append(message)
            elif "error" in message:
                raise RuntimeError("{code}: {message}".format(**message["error"]))
            else:
                return message["result"]

    async def notifications(self):
        while True:
            yield self.notes.pop(0) if self.notes else json.loads(await self.connection.recv())


async def main():
    context = pinned(os.environ["HARNESS_FINGERPRINT"])
    headers = {"Authorization": f"Bearer {os.environ['HARNESS_TOKEN']}"}
    uri = f"wss://{sys.argv[1]}"
    async with connect(uri, ssl=context, additional_headers=headers, max_size=None, proxy=None) as connection:
        daemon = Daemon(connection)
        await daemon.call("hello", protocol=1, client="watch.py")
        for entry in (await daemon.call("registry.list"))["entries"]:
            print("is", entry["instance"], entry["status"]["state"], flush=True)
        await daemon.call("events.subscribe")
        async for note in daemon.notifications():
            if note["method"] == "events.snapshot" and not note["params"].get("more"):
                print("snapshot", note["params"]["revision"], flush=True)
            if note["method"] == "events.event":
                event = note["params"]["event"]
                state = (event.get("entry") or {}).get("status", {}).get("state", "removed")
                print("event", event["revision"], event["instance"], state, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
