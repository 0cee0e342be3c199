"""One call on one connection: take it, send, read the whole answer, give it back. For threads and for asyncio.

A connection is used again only if its last answer was read to the end, and came from a server that can decide. Anything
else closes it: a timeout, a cancelled task, an exception of a signal handler, wherever it strikes. Otherwise the next
call on it would read an answer that belongs to this one.

That rests on the client library, which is not exact about exceptions of others: while it connects, it may put a
connection back that still owes an answer. So each call has a number, which the script repeats. An answer with another
number is nobody's, and is an outage.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ratekeeper.stores.redis.connect import Link
from ratekeeper.stores.redis.faults import Faults
from ratekeeper.stores.redis.redirects import Hop
from ratekeeper.stores.redis.script import own_answer, wire

NOT_OURS = "the answer belongs to another call"


def ask(link: Link, faults: Faults, hop: Hop, arguments: list[bytes], verb: bytes, script: bytes) -> Any:
    """Send a call once, and return its answer. A client's own way to send tries again after an error."""
    pool = link.pool(hop.node)
    try:
        connection = pool.get_connection(*link.pool_wants)
    except faults.known:
        raise
    except BaseException:  # it may stand anywhere in a handshake
        link.renew()
        pool.disconnect(inuse_connections=False)
        raise
    answer, whole = None, False
    try:
        if hop.asking:  # of the next command of this connection
            connection.send_command("ASKING")
            connection.read_response(disconnect_on_error=True)
        connection.send_packed_command([wire([verb, script, *arguments])])
        # Of itself a connection that Sentinel names stays open: the next would read an answer that was given up.
        answer = own_answer(connection.read_response(disconnect_on_error=True), arguments)
        whole = answer is not None
    except faults.reply as error:
        whole = faults.keeps(error)
        raise
    except faults.garbled as error:
        raise ConnectionError(str(error)) from error
    finally:
        try:
            if not whole:
                connection.disconnect()
        finally:
            pool.release(connection)
    if answer is None:
        raise ConnectionError(NOT_OURS)
    return answer


async def ask_async(link: Link, faults: Faults, hop: Hop, arguments: list[bytes], verb: bytes, script: bytes) -> Any:
    """As `ask`."""
    try:
        connection, release = await link.take(hop.node)
    except asyncio.CancelledError:  # that strikes only where the client library expects it
        raise
    except faults.known:
        raise
    except BaseException:
        link.renew()
        raise
    answer, whole = None, False
    try:
        if hop.asking:
            await connection.send_command("ASKING")
            await connection.read_response()
        await connection.send_packed_command([wire([verb, script, *arguments])])
        answer = own_answer(await _read(connection), arguments)
        whole = answer is not None
    except faults.reply as error:
        whole = faults.keeps(error)
        raise
    except faults.garbled as error:
        raise ConnectionError(str(error)) from error
    finally:
        try:
            if not whole:
                await connection.disconnect(nowait=True)
        finally:
            await release(connection)
    if answer is None:
        raise ConnectionError(NOT_OURS)
    return answer


async def _read(connection: Any) -> Any:
    """Return the answer. What has come while the event loop was busy counts, though its time is over.

    An event loop that was blocked for longer than the timeout finds the answer and the end of the wait together.
    """
    answer = await connection.read_response(timeout=connection.socket_timeout)
    if answer is None:
        for _ in range(2):  # a turn of the event loop to see that something came, and one to take it
            await asyncio.sleep(0)
        answer = await connection.read_response(timeout=0)
    if answer is None:
        raise TimeoutError("Timeout reading from the server")
    return answer
