"""A server of one file on this machine, for tests of downloads: nothing leaves the machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """A file server on this machine that does what a test asks of it.

    Attributes:
        content: the one file.
        ranges: whether it answers Range.
        cuts: after how many bytes to cut the connection, request by request.
        status: answered instead of the file.
        kind: Content-Type.
        etag: sent with the file, and compared with If-Range.
        shift: by how much the answer's range differs from the one asked for.
        honours_if_range: whether it compares If-Range.
        length: whether it sends Content-Length.
        packed: sent as Content-Encoding.
        asked: path and Range of each request.
    """

    content: bytes
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    status: int = 200
    kind: str = "application/octet-stream"
    etag: str = ""
    shift: int = 0
    honours_if_range: bool = True
    length: bool = True
    packed: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    port: int = 0

    @property
    def wanted(self) -> list[str | None]:
        """The Range of each request."""
        return [wanted for _, wanted in self.asked]


@contextmanager
def serving(state: Server) -> Iterator[Server]:
    """Serves the file while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            state.asked.append((self.path, wanted))
            size = len(state.content)
            start = 0
            same = not state.honours_if_range or self.headers["If-Range"] in (None, state.etag)
            if wanted and state.ranges and same:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
            elif state.status != 200:
                self.send_response(state.status)
            elif start:
                self.send_response(206)
                first = start + state.shift
                self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
            else:
                self.send_response(200)
            body = state.content[start:] if state.status == 200 and start < size else b""
            self.send_header("Content-Type", state.kind)
            if state.length:
                self.send_header("Content-Length", str(len(body)))
            if state.packed:
                self.send_header("Content-Encoding", state.packed)
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = http.server_port
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()
