"""Every program of the shop.

python3 shop.py serve                   answers on $PORT; /health asks everything in $NEEDS
python3 shop.py work [--fail-after S]   asks everything in $NEEDS every $EVERY seconds, and touches run/INSTANCE.alive
python3 shop.py job NAME                asks everything in $NEEDS once and ends
"""

import http.server
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request

NAME = os.environ.get("HARNESS_INSTANCE", "shop")
NEEDS = os.environ.get("NEEDS", "").split()


def ask(url):
    try:
        with urllib.request.urlopen(url + "/", timeout=2) as answer:
            return answer.read().decode().strip()
    except (urllib.error.URLError, OSError) as error:
        return f"{url} does not answer: {error}"


def troubles():
    return [said for said in map(ask, NEEDS) if "does not answer" in said]


class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = troubles() if self.path == "/health" else []
        body = ("\n".join(found) or f"{NAME} is open, prices in {os.environ.get('CURRENCY', '?')}").encode()
        self.send_response(503 if found else 200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, text, *values):
        if "/health" not in text % values:
            print(text % values)


def serve():
    port = int(os.environ["PORT"])
    print(f"{NAME} opens on port {port}")
    try:
        http.server.ThreadingHTTPServer(("127.0.0.1", port), Shop).serve_forever()
    except KeyboardInterrupt:
        print(f"{NAME} closes")


def work(fail_after):
    alive = pathlib.Path("run", f"{NAME}.alive")
    alive.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    while time.monotonic() - began < fail_after:
        for url in NEEDS:
            print(f"{NAME}: {ask(url)}")
        alive.touch()
        time.sleep(float(os.environ.get("EVERY", "5")))
    sys.exit(f"{NAME} has had enough")


def job(name):
    found = troubles()
    print(f"{name}: " + ("; ".join(found) or f"done, asked {len(NEEDS)}"))
    sys.exit(1 if found else 0)


match sys.argv[1:]:
    case ["serve"]:
        serve()
    case ["work"]:
        work(float("inf"))
    case ["work", "--fail-after", seconds]:
        work(float(seconds))
    case ["job", name]:
        job(name)
    case _:
        sys.exit(__doc__)
