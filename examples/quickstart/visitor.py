"""Visits a web site and has each visit counted.

python3 visitor.py WEB COUNTER          visits every $VISIT_EVERY seconds
python3 visitor.py --check COUNTER      exits with 0 if a visit has been counted
"""

import os
import sys
import time
import urllib.request


def ask(url, data=None):
    with urllib.request.urlopen(url, data, timeout=5) as answer:
        return answer.status, answer.read()


if sys.argv[1] == "--check":
    _, count = ask(sys.argv[2])
    sys.exit(0 if int(count) > 0 else 1)

web, counter = sys.argv[1:3]
while True:
    status, page = ask(web + "/")
    _, count = ask(counter + "/", b"")
    print(f"visit {int(count)}: {web} answered {status} with {len(page)} bytes")
    time.sleep(float(os.environ.get("VISIT_EVERY", "2")))
