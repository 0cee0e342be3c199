"""A WSGI application for several workers: gunicorn --workers 4 wsgi_app"""

from math import ceil
from wsgiref.types import StartResponse, WSGIEnvironment

from ratekeeper import Limiter, SharedMemoryStore

store = SharedMemoryStore("ratekeeper-example")  # one table in /dev/shm for all workers
limiter = Limiter("50/10s", store=store)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    decision = limiter.try_acquire(environ["REMOTE_ADDR"])
    if not decision:
        start_response("429 Too Many Requests", [("Retry-After", str(ceil(decision.retry_after)))])
        return [b"slow down\n"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello\n"]
