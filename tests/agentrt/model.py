"""A model server for tests: asks for a tool once, and then answers with what the tool gave."""

import http.server
import json
import threading
from typing import Any

CODE = "import os\nprint(6 * 7)\ntry:\n    os.listdir('/workspace')\nexcept OSError as e:\n    print(type(e).__name__)"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        server.asked.append(request)
        body = json.dumps(reply(request)).encode()
        if request.get("stream"):
            self.send_error(400, "no streams here")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def reply(request: dict[str, Any]) -> dict[str, Any]:
    results = [m["content"] for m in request["messages"] if m["role"] == "tool"]
    message: dict[str, Any] = {"role": "assistant", "content": None}
    if results or not request.get("tools"):
        message["content"] = f"The tool says {results[-1]!r}." if results else "Nothing to add."
    else:
        call = {"name": "run_python", "arguments": json.dumps({"code": CODE})}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": call}]
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 1,
        "model": request["model"],
        "choices": [
            {"index": 0, "message": message, "finish_reason": "tool_calls" if message.get("tool_calls") else "stop"}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


class Model:
    """A server on the host's loopback; `asked` has every request that came."""

    def __enter__(self) -> "Model":
        server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.asked = []
        self.server, self.asked, self.port = server, server.asked, server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
