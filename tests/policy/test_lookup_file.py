"""A rule's limit that is looked up, as a policy file says it."""

from __future__ import annotations

import pytest

from ratekeeper import Policy, PolicyError, TokenBucket
from ratekeeper.policy.lookups.lookup import Lookup

RULE = '[[rules]]\nname = "r"\nlimit = "app:plan"\n'


@pytest.mark.parametrize(
    ("text", "lookup"),
    [
        ("", Lookup("plan")),
        ("ttl = 5", Lookup("plan", ttl=5)),
        ("ttl = 0.5", Lookup("plan", ttl=0.5)),
        ('ttl = "60s"', Lookup("plan", ttl=60)),
        ('ttl = "5 minutes"', Lookup("plan", ttl=300)),
        ('on_lookup_error = "deny"', Lookup("plan", on_error="deny")),
        ('on_lookup_error = "default"', Lookup("plan", on_error="default")),
    ],
)
def test_a_look_up_is_read(text: str, lookup: Lookup) -> None:
    rule = Policy.parse(f'{RULE}default = "10/minute"\n{text}').rules[0]
    assert rule.lookup == lookup
    assert rule.limit == TokenBucket(10, "10/minute")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (RULE, "rule 'r': 'default' is missing: write, say, default = '10/minute'"),
        (f'{RULE}default = "often"', "'often' is not a limit"),
        (f"{RULE}default = 5", "a limit is a string"),
        (RULE.replace("plan", "") + 'default = "1/s"', "'app:' names no look-up"),
        (RULE.replace("plan", "a b") + 'default = "1/s"', "'app:a b' names no look-up"),
        (f'{RULE}default = "1/s"\nttl = 0', "'ttl' must be seconds"),
        (f'{RULE}default = "1/s"\nttl = true', "'ttl' must be seconds"),
        (f'{RULE}default = "1/s"\nttl = inf', "'ttl' must be seconds"),
        (f'{RULE}default = "1/s"\nttl = "soon"', "'ttl' must be seconds"),
        (f'{RULE}default = "1/s"\nttl = "400 days"', "at most a year"),
        (f'{RULE}default = "1/s"\nttl = 1{"0" * 400}', "'ttl' must be seconds"),
        (f'{RULE}default = "1/s"\non_lookup_error = "denied"', "did you mean 'deny'"),
        (f'{RULE}default = "1/s"\ncapacity = 5', "'capacity' is not for a limit that your application gives"),
        (f'{RULE}default = "1/s"\nalgorithm = "leaky_bucket"', "'algorithm' is not for a limit"),
        ('[[rules]]\nname = "r"\nlimit = "5/s"\nttl = 5', "'ttl' is for a limit that your application gives"),
        (
            '[[rules]]\nname = "r"\nlimit = "5/s"\ndefault = "5/s"',
            "'default' is for a limit that your application gives",
        ),
        (
            '[[rules]]\nname = "r"\nlimit = "5/s"\noverrides = [{user = "a", limit = "app:plan"}]',
            "must be a fixed limit",
        ),
    ],
)
def test_a_mistake_says_what_would_be_right(text: str, error: str) -> None:
    with pytest.raises(PolicyError) as raised:
        Policy.parse(text)
    assert error in str(raised.value)
