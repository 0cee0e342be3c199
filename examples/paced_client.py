"""A client that keeps to an API's limit. If it is still too fast, it waits as long as the API says.

pip install 'ratekeeper[httpx]'
python examples/paced_client.py
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx

from ratekeeper.clients.httpx import RateLimitTransport


class API(BaseHTTPRequestHandler):
    """Answers the third request with: not so fast."""

    asked = 0

    def do_GET(self) -> None:
        API.asked += 1
        self.send_response(429 if API.asked == 3 else 200)
        if API.asked == 3:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    api = HTTPServer(("127.0.0.1", 0), API)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    began = time.monotonic()
    with httpx.Client(transport=RateLimitTransport("20/s burst 2", retries=1)) as client:
        for _ in range(5):
            answer = client.get(f"http://127.0.0.1:{api.server_port}/")
            print(f"{time.monotonic() - began:3.1f} s  {answer.status_code}")
    print(f"{API.asked} requests: one of the five was sent again, when the API said")
    api.shutdown()
    api.server_close()
