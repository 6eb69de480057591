"""A small server that speaks as much of S3 as s3fs asks of it, with conditional writes; it keeps objects in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_TIME = "2026-01-01T00:00:00.000Z"


class S3Server(ThreadingHTTPServer):
    """The server.

    Attributes:
        objects: by key, the bucket's name first.
        heeds_conditions: False: `If-None-Match` is passed over, as older servers do.
        drops: so many answers to writes that succeed are lost on their way.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.heeds_conditions = True
        self.drops = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).strip("/")

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, more: str = "") -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}</Message>{more}</Error>".encode()
        self._answer(status, body, Content_Type="application/xml")

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        whole = b""
        while data:
            size, _, data = data.partition(b"\r\n")
            length = int(size.split(b";")[0], 16)
            if not length:
                break
            whole, data = whole + data[:length], data[length + 2 :]
        return whole

    def do_PUT(self) -> None:
        """Put an object."""
        data, only_new = self._body(), self.headers.get("If-None-Match") == "*"
        with self.server.lock:
            if only_new and self.server.heeds_conditions and self._key in self.server.objects:
                more = "<Condition>If-None-Match</Condition>"
                return self._error(412, "PreconditionFailed", more)
            self.server.objects[self._key] = data
            if self.server.drops:
                self.server.drops -= 1
                self.close_connection = True
                return None
        return self._answer(200, ETag=_etag(data))

    def do_HEAD(self) -> None:
        """Tell of an object."""
        self._get()

    def do_GET(self) -> None:
        """Give an object, or the list of those below a prefix."""
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "list-type" in query:
            self._list(self._key, query.get("prefix", [""])[0], query.get("delimiter", [""])[0])
        else:
            self._get()

    def _get(self) -> None:
        with self.server.lock:
            data = self.server.objects.get(self._key)
        if data is None:
            return self._error(404, "NoSuchKey")
        asked, status, more = self.headers.get("Range", ""), 200, {}
        if asked.startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(data), len(data))
            more = {"Content_Range": f"bytes {first}-{end - 1}/{len(data)}"}
            data, status = data[int(first) : end], 206
        return self._answer(
            status, data, ETag=_etag(data), Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT", **more
        )

    def _list(self, bucket: str, prefix: str, delimiter: str) -> None:
        with self.server.lock:
            there = {
                key.removeprefix(f"{bucket}/"): data
                for key, data in sorted(self.server.objects.items())
                if key.startswith(f"{bucket}/{prefix}")
            }
        contents, folders = "", []
        for key, data in there.items():
            rest = key.removeprefix(prefix)
            if delimiter and delimiter in rest:
                folders.append(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                contents += (
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{_TIME}</LastModified>"
                    f"<ETag>{_etag(data)}</ETag><Size>{len(data)}</Size></Contents>"
                )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>"
            for one in dict.fromkeys(folders)
        )
        body = (
            f"<ListBucketResult><Name>{bucket}</Name><KeyCount>{len(there)}</KeyCount>"
            f"<IsTruncated>false</IsTruncated>{contents}{common}</ListBucketResult>"
        )
        self._answer(200, body.encode(), Content_Type="application/xml")

    def do_DELETE(self) -> None:
        """Remove an object."""
        with self.server.lock:
            self.server.objects.pop(self._key, None)
        self._answer(204)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Give a running server."""
    server = S3Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
