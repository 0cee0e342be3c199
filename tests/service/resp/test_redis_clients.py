"""Redis clients of several languages ask the service, unmodified."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import valkey
from needs import need, need_program
from resp_service import node_modules, ran, resp_port, resp_service
from service_process import Running

from ratekeeper.cli.main import main

pytestmark = pytest.mark.slow

HOUR = 3600


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with resp_service(tmp_path_factory.mktemp("resp")) as running:
        yield running


@pytest.fixture(scope="module")
def port(service: Running) -> int:
    return resp_port(service)


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_asks_alone_in_pipelines_and_from_a_pool(port: int, protocol: int) -> None:
    key = f"redis-py {protocol}"
    client: Any = redis.Redis(port=port, protocol=protocol, client_name="worker-1")
    assert client.ping()
    assert client.client_getname() in ("worker-1", b"worker-1")
    assert client.execute_command("CL.THROTTLE", key, 2, 1, HOUR) == [0, 3, 2, -1, HOUR]
    pipeline = client.pipeline(transaction=False)
    for _ in range(3):
        pipeline.execute_command("CL.THROTTLE", key, 2, 1, HOUR)
    assert [answer[0] for answer in pipeline.execute()] == [0, 0, 1]
    answer = client.execute_command("RK.CHECK", "path", "/api/x", "api_key", key)
    named = answer if protocol == 3 else dict(zip(answer[::2], answer[1::2], strict=True))
    assert (named[b"allowed"], named[b"rule"], named[b"remaining"]) == (1, b"each key", 2)
    with pytest.raises(redis.ResponseError, match="unknown command 'GET'"):
        client.get(key)
    with pytest.raises(redis.ResponseError, match="did you mean 'api_key'"):
        client.execute_command("RK.CHECK", "api_kay", "k")
    assert client.info()["ratekeeper_version"]
    assert "cl.throttle" in client.command()
    assert client.command_count() == len(client.command())
    make_pool: Any = redis.BlockingConnectionPool
    pool = make_pool(port=port, protocol=protocol, max_connections=2)
    assert [redis.Redis(connection_pool=pool).echo("x") for _ in range(5)] == [b"x"] * 5
    client.close()
    pool.disconnect()


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_asks_from_asyncio(port: int, protocol: int) -> None:
    async def story() -> None:
        client: Any = redis.asyncio.Redis(port=port, protocol=protocol)
        asked = [client.execute_command("CL.THROTTLE", f"async {protocol}", 9, 1, HOUR) for _ in range(20)]
        assert sorted(answer[0] for answer in await asyncio.gather(*asked)) == [0] * 10 + [1] * 10
        async with client.pipeline(transaction=False) as pipeline:
            for _ in range(100):
                pipeline.ping()
            assert await pipeline.execute() == [True] * 100
        await client.aclose()

    asyncio.run(story())


def test_valkey_py_asks(port: int) -> None:
    client: Any = valkey.Valkey(port=port)
    assert client.execute_command("CL.THROTTLE", "valkey-py", 0, 1, HOUR) == [0, 1, 0, -1, HOUR]
    assert client.execute_command("CL.THROTTLE", "valkey-py", 0, 1, HOUR)[0] == 1
    assert client.execute_command("RK.RESET", "path", "/api/x", "api_key", "valkey-py")
    client.close()


def test_a_unix_socket_and_a_password(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n")
    path = tmp_path / "resp.sock"
    with resp_service(tmp_path, "--resp-password-file", str(secret), at=f"unix:{path}"):
        with pytest.raises(redis.AuthenticationError, match="Authentication required"):
            redis.Redis(unix_socket_path=str(path), protocol=2).ping()
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(unix_socket_path=str(path), password="open").ping()
        for protocol in (2, 3):
            client: Any = redis.Redis(unix_socket_path=str(path), password="open sesame", protocol=protocol)
            assert client.execute_command("CL.THROTTLE", f"k{protocol}", 0, 1, HOUR)[0] == 0
            client.close()


@pytest.mark.parametrize(
    ("text", "error"), [("", "in one line"), ("two\nlines\n", "in one line"), (None, "cannot read")]
)
def test_a_password_file_that_cannot_be_used_is_an_error_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, error: str
) -> None:
    file = tmp_path / "secret"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "x.toml", "--resp-password-file", str(file)])
    assert error in capsys.readouterr().err


IOREDIS = """
const Redis = require("ioredis");
(async () => {
  const client = new Redis(Number(process.argv[1]), "127.0.0.1", { connectionName: "node", lazyConnect: true });
  await client.connect();
  const answers = [];
  for (let i = 0; i < 3; i++) answers.push(await client.call("CL.THROTTLE", "ioredis", "1", "1", "3600"));
  const checks = client.pipeline();
  for (let i = 0; i < 4; i++) checks.call("RK.CHECK", "path", "/api/x", "api_key", "ioredis");
  const checked = (await checks.exec()).map(([error, answer]) => answer[1]);
  const refused = await client.call("GET", "x").catch((error) => error.message);
  console.log(JSON.stringify({ answers, checked, refused }));
  await client.quit();
})();
"""

NODE_REDIS = """
const { createClient } = require("redis");
(async () => {
  const client = createClient({ url: `redis://127.0.0.1:${process.argv[1]}`, RESP: 3 });
  await client.connect();
  const answers = await Promise.all([1, 2, 3].map(() =>
    client.sendCommand(["CL.THROTTLE", "node-redis", "1", "1", "3600"])));
  const checked = [];
  for (let i = 0; i < 4; i++)
    checked.push((await client.sendCommand(["RK.CHECK", "path", "/api/x", "api_key", "node"])).allowed);
  const refused = await client.sendCommand(["GET", "x"]).catch((error) => error.message);
  console.log(JSON.stringify({ answers, checked, refused }));
  await client.close();
})();
"""


@pytest.mark.parametrize("script", [IOREDIS, NODE_REDIS], ids=["ioredis", "node-redis"])
def test_clients_for_node_ask(port: int, script: str) -> None:
    node, modules = need_program("node"), node_modules()
    said = json.loads(ran(node, "-e", script, str(port), env={"NODE_PATH": str(modules)}))
    assert [answer[:3] for answer in said["answers"]] == [[0, 2, 1], [0, 2, 0], [1, 2, 0]]
    assert list(map(bool, said["checked"])) == [True, True, True, False]
    assert said["refused"].startswith("ERR unknown command 'GET'")


C_CLIENT = r"""
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **arguments)
{
    redisContext *context = redisConnect("127.0.0.1", atoi(arguments[count - 1]));
    for (int i = 0; i < 3; i++)
        redisAppendCommand(context, "CL.THROTTLE %s 1 1 3600", "c client");
    for (int i = 0; i < 3; i++) {
        redisReply *reply;
        if (redisGetReply(context, (void **)&reply) != REDIS_OK || reply->type != REDIS_REPLY_ARRAY)
            return 1;
        for (size_t j = 0; j < reply->elements; j++)
            printf("%lld ", reply->element[j]->integer);
        freeReplyObject(reply);
    }
    redisFree(context);
    return 0;
}
"""


def test_a_client_in_c_asks(port: int, tmp_path: Path) -> None:
    compiler = need_program("cc")
    need("libhiredis-dev", Path("/usr/include/hiredis/hiredis.h").exists())
    source = tmp_path / "client.c"
    source.write_text(C_CLIENT)
    ran(compiler, "-o", tmp_path / "client", source, "-lhiredis")
    answers = ["0 2 1 -1 3600", "0 2 0 -1 7200", "1 2 0 3600 7200"]
    assert ran(tmp_path / "client", str(port)).split() == " ".join(answers).split()


def test_redis_cli_asks(port: int) -> None:
    cli = need_program("redis-cli")
    assert ran(cli, "-p", str(port), "CL.THROTTLE", "cli", "1", "1", "60").split() == ["0", "2", "1", "-1", "60"]
    shown = ran(cli, "-3", "-p", str(port), "RK.CHECK", "path", "/api/x", "api_key", "cli")
    assert "allowed" in shown
    assert "each key" in shown
