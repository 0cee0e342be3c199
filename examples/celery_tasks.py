"""Celery tasks that call an API with a limit: each comes back when it is its turn, and no worker waits with it.

    pip install 'ratekeeper[celery,redis]'
    celery --workdir examples -A celery_tasks worker

Run as a program, without a worker or a broker, it calls the tasks one after the other:

    python examples/celery_tasks.py
"""

import time

from celery import Celery

from ratekeeper import Limiter, MemoryStore, RedisStore
from ratekeeper.clients.celery import rate_limit

ALONE = __name__ == "__main__"
app = Celery("tasks", broker="redis://127.0.0.1:6379/0", set_as_current=not ALONE)
app.conf.task_always_eager = ALONE
limiter = Limiter("10/s burst 2", store=MemoryStore() if ALONE else RedisStore("redis://127.0.0.1:6379/0"))


@app.task
@rate_limit(limiter, key=lambda tenant: tenant)
def fetch(tenant: str, report: int) -> None:
    print(f"{time.monotonic() - began:3.1f} s  {tenant}'s report {report}")  # the API's call goes here


began = time.monotonic()

if __name__ == "__main__":
    for report in range(1, 5):
        fetch.delay("acme", report)
    fetch.delay("umbrella", 1)
    app.close()
