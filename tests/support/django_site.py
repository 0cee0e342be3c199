"""The Django site of the tests: its settings, and its pages as in `web_sites`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="django_site",
        SECRET_KEY="of tests",
        MIDDLEWARE=["django_site.sign_in", "ratekeeper.frameworks.django.RateLimitMiddleware"],
        REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
        LOGGING_CONFIG=None,
    )
    django.setup()

from asgiref.sync import iscoroutinefunction
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import include, path
from django.utils.decorators import method_decorator, sync_and_async_middleware
from django.views import View
from rest_framework.authentication import BaseAuthentication
from rest_framework.response import Response
from rest_framework.views import APIView
from site_parts import PIECES, exceed_a_limit_of_its_own

from ratekeeper.frameworks.django import rate_limit
from ratekeeper.frameworks.drf import RateLimitThrottle


class User:
    is_authenticated = True

    def __init__(self, pk: str) -> None:
        self.pk = pk


@sync_and_async_middleware
def sign_in(get_response: Any) -> Any:
    """Stands for the AuthenticationMiddleware, which would need a database."""
    if not iscoroutinefunction(get_response):

        def middleware(request: HttpRequest) -> Any:
            request.user = User(request.headers.get("x-user", ""))
            return get_response(request)

        return middleware

    async def async_middleware(request: HttpRequest) -> Any:
        request.user = User(request.headers.get("x-user", ""))
        return await get_response(request)

    return async_middleware


def item(request: HttpRequest, item: int) -> HttpResponse:
    return HttpResponse(str(item))


@rate_limit("1/hour", key=lambda request: request.user.pk)
def send(request: HttpRequest) -> HttpResponse:
    return HttpResponse("sent")


@rate_limit("1/hour", key=lambda request: request.user.pk)
async def send_async(request: HttpRequest) -> HttpResponse:
    return HttpResponse("sent")


@method_decorator(rate_limit("1/hour"), name="dispatch")
class SendClass(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("sent")


class SendAsyncClass(View):
    @rate_limit("1/hour")
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("sent")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(pieces_async() if isinstance(request, ASGIRequest) else iter(PIECES))


async def pieces_async() -> AsyncIterator[bytes]:
    for piece in PIECES:
        yield piece


def own(request: HttpRequest) -> None:
    exceed_a_limit_of_its_own()


def boom(request: HttpRequest) -> HttpResponse:
    raise ValueError("boom")


class ByToken(BaseAuthentication):
    def authenticate(self, request: Any) -> tuple[User, None] | None:
        token = request.headers.get("x-token")
        return (User(token), None) if token else None


class Api(APIView):
    authentication_classes = (ByToken,)
    throttle_classes = (RateLimitThrottle,)

    def get(self, request: Any) -> Response:
        return Response("ok")


class Search(Api):
    throttle_limits = ("2/hour", "100/day")


class Hourly(RateLimitThrottle):
    limits = "2/hour"


class Report(Api):
    throttle_classes = (Hourly,)


class Export(Search):
    throttle_scope = "heavy"


class Import(Search):
    throttle_scope = "heavy"


api = [path(view.__name__.lower(), view.as_view()) for view in (Api, Search, Report, Export, Import)]
api.append(path("report/again", Report.as_view()))

urlpatterns = [
    path("items/<int:item>", item),
    path("send", send),
    path("send/async", send_async),
    path("send/class", SendClass.as_view()),
    path("send/async-class", SendAsyncClass.as_view()),
    path("stream", stream),
    path("own", own),
    path("boom", boom),
    path("api/", include(api)),
]
