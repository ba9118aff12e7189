"""A small server of files that counts what is asked of it and can be told to behave badly."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class ObjectServer:
    """Serves the files of a folder."""

    folder: Path
    whole: Counter[str] = field(default_factory=Counter)  # file -> GETs of all of it
    parts: Counter[str] = field(default_factory=Counter)  # GETs of a range
    ranges: bool = True
    drops: int = 0  # so many of the next GETs end after half of the content
    status: int = 0  # answered in place of all else
    endless: bool = False
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.lstrip("/")
        path = self.folder / name
        if self.status or not path.is_file():
            request.send_response(self.status or 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", "")) if self.ranges else None
        total = len(content)
        if asked:
            content = content[int(asked[1]) : int(asked[2]) + 1]
        if request.command == "GET":
            (self.parts if asked else self.whole)[name] += 1
        request.send_response(206 if asked else 200)
        if self.ranges:
            request.send_header("Accept-Ranges", "bytes")
        if asked:
            request.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(content) - 1}/{total}")
        if not self.endless:
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command == "HEAD":
            return
        if self.drops > 0:
            self.drops -= 1
            request.wfile.write(content[: len(content) // 2])
            request.close_connection = True
            return
        request.wfile.write(content)
        while self.endless:
            request.wfile.write(content)


@contextmanager
def serving(folder: Path) -> Iterator[ObjectServer]:
    server = ObjectServer(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                server.answer(self)
            except OSError:  # the client has gone
                self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, *words: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
