"""`Health/Watch` by gRPC's own client: the present state, each change, the end, and how many streams there may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import grpc
import pytest
import rls_messages as real
from async_memory import AsyncMemoryStore
from servers import PATIENCE
from service_process import poll
from service_thread import InThread, serving_in_thread

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.health import MOST_WATCHES, MOST_WATCHES_OF_CONNECTION

pytestmark = pytest.mark.slow

POLICY = Policy.parse('[[rules]]\nname = "r"\nlimit = "5/minute"\n')
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


@pytest.fixture
def store() -> AsyncMemoryStore:
    return AsyncMemoryStore(MemoryStore(100))


@pytest.fixture
def core(store: AsyncMemoryStore) -> Core:
    return Core(POLICY, store)


@contextmanager
def connected(server: InThread) -> Iterator[Any]:
    """Yield the method Watch of another connection."""
    address = f"127.0.0.1:{server.address[1]}"
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        grpc.channel_ready_future(channel).result(PATIENCE)
        yield channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=real.HealthCheckResponse.FromString,
        )


def watching(watch: Any, service: str = "") -> Any:
    return watch(real.HealthCheckRequest(service=service), timeout=10 * PATIENCE)


def status_of(stream: Any) -> Any:
    with pytest.raises(grpc.RpcError) as error:
        next(stream)
    return error.value.code()


def test_a_watcher_is_told_the_present_state_and_each_change(core: Core, store: AsyncMemoryStore) -> None:
    with serving_in_thread(core, kind="grpc") as server, connected(server) as watch:
        stream = watching(watch)
        assert next(stream).status == SERVING
        store.away = True
        assert next(stream).status == NOT_SERVING
        late = watching(watch)
        assert next(late).status == NOT_SERVING
        store.away = False
        assert next(stream).status == next(late).status == SERVING


@pytest.mark.parametrize("service", ["", "else"])
def test_a_stop_tells_watchers_and_ends_them(core: Core, service: str) -> None:
    with ExitStack() as stack:
        with serving_in_thread(core, kind="grpc") as server:
            stream = watching(stack.enter_context(connected(server)), service)
            assert next(stream).status == (SERVICE_UNKNOWN if service else SERVING)
        assert next(stream).status == NOT_SERVING
        assert status_of(stream) == grpc.StatusCode.UNAVAILABLE


def test_the_streams_of_a_connection_and_of_a_process_are_bounded_and_become_free(core: Core) -> None:
    with ExitStack() as stack, serving_in_thread(core, kind="grpc") as server:
        streams = []
        for _ in range(MOST_WATCHES // MOST_WATCHES_OF_CONNECTION):
            watch = stack.enter_context(connected(server))
            own = [watching(watch) for _ in range(MOST_WATCHES_OF_CONNECTION)]
            assert [next(stream).status for stream in own] == [SERVING] * len(own)
            assert status_of(watching(watch)) == grpc.StatusCode.RESOURCE_EXHAUSTED
            streams += own
        assert core.health_watches == MOST_WATCHES
        with connected(server) as other:
            assert status_of(watching(other)) == grpc.StatusCode.RESOURCE_EXHAUSTED
            streams[0].cancel()
            poll(lambda: core.health_watches == MOST_WATCHES - 1)
            assert next(watching(other)).status == SERVING
        poll(lambda: core.health_watches == MOST_WATCHES - 1)
    assert core.health_watches == 0


def test_a_lost_connection_frees_its_streams(core: Core) -> None:
    with serving_in_thread(core, kind="grpc") as server:
        with connected(server) as watch, suppress(grpc.RpcError):
            assert next(watching(watch)).status == SERVING
            assert core.health_watches == 1
        poll(lambda: core.health_watches == 0)
