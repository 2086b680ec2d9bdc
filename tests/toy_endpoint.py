"""An OpenAI-compatible endpoint on this machine that answers as a test tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-toy-0123456789"
Script = Callable[[dict[str, Any], int], tuple[int, dict[str, str], bytes]]


def completion(text: str | None) -> bytes:
    """Write what an endpoint answers."""
    return json.dumps({
        "id": "1", "object": "chat.completion", "created": 0, "model": "toy",
        "choices": [{"index": 0, "finish_reason": "stop",
                     "message": {"role": "assistant", "content": text}}],
    }).encode()  # fmt: skip


def says(text: str | None) -> tuple[int, dict[str, str], bytes]:
    """Answer in words."""
    return 200, {"Content-Type": "application/json"}, completion(text)


def fails(status: int, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Answer with a status."""
    body = json.dumps({"error": {"message": f"no: {KEY}", "type": "toy"}}).encode()
    return status, {"Content-Type": "application/json", **headers}, body


class Server:
    """Answers each request with `script(body, how often this content was asked)`."""

    def __init__(self, script: Script) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.most_at_once = 0
        under_way = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                nonlocal under_way
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    under_way += 1
                    server.most_at_once = max(server.most_at_once, under_way)
                    earlier = sum(r["messages"] == body["messages"] for r in server.requests)
                    server.requests.append(body)
                    server.keys.add(self.headers.get("Authorization", ""))
                status, headers, content = script(body, earlier)
                with lock:
                    under_way -= 1
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # the client has given up waiting

            def log_message(self, *_: Any) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
