"""Counts: a POST adds one, every answer is the count so far. python3 counter.py PORT"""

import http.server
import sys
import threading

lock = threading.Lock()
count = 0


class Counter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(0)

    def do_POST(self):
        self.answer(1)

    def answer(self, more):
        global count
        with lock:
            count += more
            body = f"{count}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


port = int(sys.argv[1])
print("counting on port", port)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Counter).serve_forever()
