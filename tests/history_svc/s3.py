"""A stand-in for an S3 server: the calls that the store of frames makes, as the REST API describes them.

Real servers come as containers or drag the whole of boto into the lock; POI_TEST_S3_URL names one to test with.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BUCKET = "evidence"


class S3(ThreadingHTTPServer):
    """One bucket, in memory. `down` makes every call fail, `full` every write; `calls` are methods and paths."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.calls: list[str] = []
        self.down = False

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }


@contextmanager
def running() -> Iterator[S3]:
    """A server until the end of the block."""
    server = S3()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: S3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        key, query = self._begin()
        if key is None:
            return
        if "list-type" in query:
            self._answer(200, self._list(query.get("prefix", ""), query.get("delimiter", "")))
        elif key in self.server.objects:
            content, modified = self.server.objects[key]
            self._answer(200, content, modified)
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_PUT(self) -> None:
        content = self._body()
        key, _ = self._begin()
        if key is not None:
            self.server.objects[key] = (content, datetime.now(UTC))
            self._answer(200, b"")

    def do_POST(self) -> None:
        content = self._body()
        key, query = self._begin()
        if key is None:
            return
        assert "delete" in query
        keys = [one.text or "" for one in ElementTree.fromstring(content).iter() if one.tag.endswith("Key")]
        for one in keys:
            self.server.objects.pop(one, None)
        deleted = "".join(f"<Deleted><Key>{escape(one)}</Key></Deleted>" for one in keys)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _begin(self) -> tuple[str | None, dict[str, str]]:
        parts = urlsplit(self.path)
        self.server.calls.append(f"{self.command} {self.path}")
        if self.server.down:
            self._answer(503, b"<Error><Code>ServiceUnavailable</Code></Error>")
            return None, {}
        bucket, _, key = unquote(parts.path).removeprefix("/").partition("/")
        assert bucket == BUCKET
        assert self.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=key/")
        query = parse_qs(parts.query, keep_blank_values=True)
        return key, {name: values[0] for name, values in query.items()}

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["content-length"] or 0))

    def _list(self, prefix: str, delimiter: str) -> bytes:
        folders, contents = set[str](), []
        for key, (content, modified) in sorted(self.server.objects.items()):
            if not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                folders.add(prefix + head + delimiter)
            else:
                contents.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{modified:%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
                    f"<Size>{len(content)}</Size><ETag>{md5(content).hexdigest()}</ETag></Contents>"
                )
        below = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders))
        return f"<ListBucketResult>{''.join(contents)}{below}</ListBucketResult>".encode()

    def _answer(self, status: int, content: bytes, modified: datetime | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{md5(content).hexdigest()}"')
        self.send_header("Last-Modified", format_datetime(modified or datetime.now(UTC), usegmt=True))
        self.end_headers()
        self.wfile.write(content)
