"""A guardrail as a webhook that redacts project names. Start here, and write your own `check`.

python server.py [--host 127.0.0.1] [--port 8700]
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = re.compile(r"\bproject (?:bluebird|kingfisher)\b", re.IGNORECASE)
MAX_BYTES = 16 * 1024 * 1024


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Judge all texts. Spans are in characters, as `re` counts them."""
    findings = [
        {"text": index, "start": match.start(), "end": match.end(), "type": "PROJECT_NAME"}
        for index, text in enumerate(request["texts"])
        for match in PROJECT.finditer(text["text"])
    ]
    return {"verdict": "redact" if findings else "pass", "findings": findings}


class Webhook(BaseHTTPRequestHandler):
    """Answers each POST with a verdict. Any other status than 200 is an error to Egret."""

    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self) -> None:
        """Read the texts, answer with the verdict."""
        length = int(self.headers.get("content-length", MAX_BYTES + 1))
        if length > MAX_BYTES:
            self.send_error(413)
            return
        try:
            answer = json.dumps(check(json.loads(self.rfile.read(length)))).encode()
        except (ValueError, KeyError, TypeError):
            self.send_error(400)
            return
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Log nothing: texts are other people's."""


def serve(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then let requests under way end."""
    server = ThreadingHTTPServer((host, port), Webhook)
    for number in (signal.SIGTERM, signal.SIGINT):
        # shutdown() waits for the loop, which runs in this very thread.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"serving on port {server.server_port}", flush=True)  # noqa: T201 - for its starter
    server.serve_forever(poll_interval=0.1)
    server.server_close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8700)
    arguments = parser.parse_args()
    serve(arguments.host, arguments.port)
