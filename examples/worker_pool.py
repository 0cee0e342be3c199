"""A LeakyQueue in front of a pool of workers: jobs start at a constant rate, however they come.

python examples/worker_pool.py
"""

import queue
import threading
import time

from ratekeeper import LeakyQueue, QueueFull

incoming: LeakyQueue[str] = LeakyQueue(capacity=10, leak_rate=100)
jobs: queue.Queue[str | None] = queue.Queue()
WORKERS = 3


def feed() -> None:
    """Hand jobs to the workers one by one, at the queue's pace."""
    for job in incoming:
        jobs.put(job)
    for _ in range(WORKERS):
        jobs.put(None)


def work() -> None:
    while (job := jobs.get()) is not None:
        print(f"{time.monotonic() - began:4.2f} s  {job}")


if __name__ == "__main__":
    began = time.monotonic()
    threads = [threading.Thread(target=feed), *(threading.Thread(target=work) for _ in range(WORKERS))]
    for thread in threads:
        thread.start()
    refused = 0
    for number in range(12):
        try:
            incoming.put(f"job {number}")
        except QueueFull:
            refused += 1
    incoming.close()
    for thread in threads:
        thread.join()
    print(f"{incoming.stats().taken} started, {refused} refused")
