"""The application whose real worker test_celery.py runs. BROKER is the URL of its server."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from ratekeeper import Limiter, RedisStore
from ratekeeper.clients.celery import rate_limit

BURST, RATE = 2, 5
ROOM = 8
"""A burst that fills in 1.6 s: a task that comes back later than its turn, but by less, finds its tokens."""

app = Celery("tasks", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.broker_connection_retry_on_startup = True
limiter = Limiter(f"{RATE}/s burst {BURST}", store=RedisStore(os.environ["BROKER"], timeout=30), name="limited")


@app.task
@rate_limit(limiter, key="limited")
def limited(number: int) -> tuple[int, float]:
    return number, time.time()


@app.task
@rate_limit(f"{RATE}/s burst {ROOM}", store=limiter.store, key="roomy")
def roomy(number: int) -> tuple[int, float]:
    return number, time.time()


@app.task
@rate_limit("1/day", store=limiter.store, key="daily")
def daily() -> None: ...


@app.task
def other() -> float:
    return time.time()


@app.task(bind=True, max_retries=1)
@rate_limit("5/s burst 1", store=limiter.store, key=lambda task, failures: "fails")
def fails_at_first(task: Any, failures: int) -> int:
    if task.request.retries < failures:
        raise task.retry(countdown=0)
    retries: int = task.request.retries
    return retries


@app.task
@rate_limit("5/s burst 2", store=limiter.store, cost=3)
def too_large() -> None:
    raise AssertionError("this can never run")
