"""An aiohttp server with a policy for all requests, and one handler with its own limit.

python examples/frameworks/aiohttp_app.py
curl -i -H 'x-api-key: k-1' http://127.0.0.1:8080/items/1
"""

from pathlib import Path

from aiohttp import web

from ratekeeper.frameworks.aiohttp import rate_limit, setup

POLICY = Path(__file__).parents[1] / "policy.toml"
routes = web.RouteTableDef()


@routes.get("/items/{item}")
async def item(request: web.Request) -> web.Response:
    return web.json_response({"item": request.match_info["item"]})


@routes.get("/export")
@rate_limit("2/hour")
async def export(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for line in range(3):
        await response.write(f"line {line}\n".encode())
    return response


def application() -> web.Application:
    app = web.Application()
    app.add_routes(routes)
    setup(app, POLICY)
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=8080)
