"""Limits from a Django model: each user has a plan, which may change at any time."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

import django
from django.conf import settings

from ratekeeper import Policy

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="__main__",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(mkdtemp()) / "plans.sqlite"}},
    )
    django.setup()

from django.db import close_old_connections, connection, models


class Account(models.Model):
    """A user and the limit of the user's plan."""

    user = models.CharField(max_length=50, primary_key=True)
    plan = models.CharField(max_length=50)
    objects = models.Manager()

    class Meta:
        app_label = "shop"


def plan_of(attributes: Mapping[str, str]) -> str | None:
    """Return the limit of a user; None for the rule's default."""
    close_old_connections()
    try:
        plan: str | None = Account.objects.filter(user=attributes["user"]).values_list("plan", flat=True).first()
        return plan
    finally:
        close_old_connections()


POLICY = Policy.parse("""
[[rules]]
name = "each user"
key = ["user"]
limit = "app:plan"
default = "10/minute"
""")

# In your settings: RATEKEEPER = {"policy": ..., "limits": {"plan": "shop.plans.plan_of"}}

if __name__ == "__main__":
    from ratekeeper import Keeper

    with connection.schema_editor() as editor:
        editor.create_model(Account)
    Account.objects.create(user="alice", plan="500/minute")
    keeper = Keeper(POLICY, limits={"plan": plan_of})
    print("alice:", keeper.try_acquire({"user": "alice"}).limit)
    print("bob:", keeper.try_acquire({"user": "bob"}).limit)
