"""Asks a champion until its input ends, and prints a line of JSON for each answer.

    python asking.py HOST:PORT KEY CALLERS < ...

It runs in a pod, on the standard library alone. As the official clients do, it asks again where a connection
breaks, after half a second, five times at most, and says how often it had to.
"""

import http.client
import json
import sys
import threading
import time

TEXTS = [f"Acme {verb} {what}" for verb in ("raises", "cuts", "delays") for what in ("its dividend", "jobs")]
# Answers by one connection: whoever comes new to a Service gets any of its pods.
ANSWERS = 10


def ask(place: str, key: str, over: threading.Event) -> None:
    """Ask for one text after the other."""
    connection = http.client.HTTPConnection(place, timeout=30)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    number = 0
    while not over.is_set():
        text = TEXTS[number % len(TEXTS)]
        body = json.dumps({"model": "news_classifier", "messages": [{"role": "user", "content": text}]})
        found = {"text": text, "began": time.time(), "broken": 0, "status": 0}
        while found["status"] == 0 and found["broken"] <= 5:
            try:
                connection.request("POST", "/v1/chat/completions", body, headers)
                response = connection.getresponse()
                said = json.loads(response.read())
                adapter = response.headers["x-flywheel-adapter"]
                found |= {"status": response.status, "adapter": adapter, "said": said}
            except (OSError, http.client.HTTPException):
                connection.close()
                found["broken"] += 1
                time.sleep(0.5)
        print(json.dumps(found | {"ended": time.time()}), flush=True)
        number += 1
        if number % ANSWERS == 0:
            connection.close()
        time.sleep(0.02)
    connection.close()


def main() -> None:
    """Ask until the input ends."""
    place, key, callers = sys.argv[1:]
    over = threading.Event()
    threads = [threading.Thread(target=ask, args=(place, key, over)) for _ in range(int(callers))]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()


main()
