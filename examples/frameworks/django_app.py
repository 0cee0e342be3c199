"""Django in one file, limited by its settings: gunicorn django_app, or python django_app.py runserver"""

from django.conf import settings

from ratekeeper import Policy

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="an example's",
    MIDDLEWARE=["ratekeeper.frameworks.django.RateLimitMiddleware"],
    RATEKEEPER={
        "policy": Policy.parse('[[rules]]\nname = "each address"\nkey = ["client"]\nlimit = "100/minute burst 20"'),
    },
)

from django.core.management import execute_from_command_line  # noqa: E402  these need the settings
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from ratekeeper.frameworks.django import rate_limit  # noqa: E402


def index(request):
    return HttpResponse("hello")


@rate_limit("2/minute", key=lambda request: request.headers.get("x-api-key"), missing="reject")
def reports(request):
    return HttpResponse(f"a report for {request.headers['x-api-key']}")


urlpatterns = [path("", index), path("reports", reports)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line()
