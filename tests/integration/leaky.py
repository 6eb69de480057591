"""What tells secrets on: a teacher that echoes its key, and a notifier that fails with its token in the message."""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

from airflow.sdk.bases.notifier import BaseNotifier


class LeakyNotifier(BaseNotifier):
    """Refused by its channel, whose error repeats the token."""

    def __init__(self, *, token: str) -> None:
        super().__init__()
        self.token = token

    def notify(self, context: Any) -> None:
        raise ValueError(f"\x1b[31mthe channel refused the token {self.token}")


class EchoingTeacher:
    """In front of a stand-in teacher: by night it refuses all calls and repeats what it was sent, with escape codes.

    By day it hands calls on, but for every `odd`-th answer, in which it repeats the key.

    Args:
        teacher: base URL of the stand-in.
        odd: see above.
    """

    def __init__(self, teacher: str, odd: int = 20) -> None:
        self.is_night = True
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.headers.append(dict(self.headers))
                status, answer = outer._answer(teacher, body, odd)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, teacher: str, body: bytes, odd: int) -> tuple[int, bytes]:
        sent = json.dumps(self.headers[-1])
        if self.is_night:
            coded = base64.b64encode(sent.encode()).decode()
            said = f"\x1b[2J\x1b]0;owned\x07\x1b[31mno such key: {sent} {quote(sent)} {coded}"
            return 401, json.dumps({"error": {"message": said}}).encode()
        if len(self.headers) % odd == 0:
            message = {"role": "assistant", "content": f"\x1b[31mI was sent {sent}"}
            return 200, json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
        request = urllib.request.Request(f"{teacher}/chat/completions", body, method="POST")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return 200, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def stop(self) -> None:
        """Close the server."""
        self._server.shutdown()
        self._server.server_close()
