"""The sites of `edge_sites`, by their framework."""

from __future__ import annotations

import edge_asgi_sites as asynchronous
import edge_wsgi_sites as called
from edge_sites import MakeSite

ASYNC: dict[str, MakeSite] = {
    "ASGI": asynchronous.asgi_site,
    "Starlette": asynchronous.starlette_site,
    "FastAPI": asynchronous.fastapi_site,
    "Litestar": asynchronous.litestar_site,
    "Quart": asynchronous.quart_site,
    "aiohttp": asynchronous.aiohttp_site,
    "Django-ASGI": called.django_asgi_site,
}
CALLED: dict[str, MakeSite] = {
    "WSGI": called.wsgi_site,
    "Flask": called.flask_site,
    "Django": called.django_wsgi_site,
}
FRAMEWORKS = {**ASYNC, **CALLED}
SITES = {**FRAMEWORKS, "gateway": called.gateway_site}
