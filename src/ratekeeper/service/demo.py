"""Demo traffic: made-up callers that ask the service's core, so that a newcomer sees limits at work.

The callers are made from the policy in use, so that each rule charges some of them. They ask as programs do, and are
decided and counted like real traffic, so `serve --demo` allows no store that real callers share. Knows no protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from random import Random
from typing import Any, NamedTuple, NoReturn

from ratekeeper.errors import BadRequestError, RatekeeperError
from ratekeeper.http.attributes import ALWAYS_KNOWN
from ratekeeper.http.request_policy import RequestPolicy
from ratekeeper.policy.addresses import network_of
from ratekeeper.policy.hashes import is_hash
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import CheckRequest, ProgramExchange

TICK = 0.05
"""Seconds between two looks at the callers whose requests are due."""

STEADY = 45.0
"""The requests a second of all steady callers together, at most."""
ABUSE = 12.0
"""The requests a second of the abuser."""
BURST, LEAST_BURST, BURST_EVERY, BURST_LENGTH = 60, 10, 2.5, 1.0
"""The requests of one burst, at most and at least; the seconds from one burst to the next, and those that it takes."""

PLAYED_RULES = 32
"""The rules of a policy that have their own callers: the first ones."""
CALLERS = 8
"""The steady callers of a rule."""
_BURSTING, _ABUSER = CALLERS + 1, CALLERS + 2
_NAMES = {_BURSTING: "demo-burst", _ABUSER: "demo-abuser"}

_SHARE = 0.6
"""The share of a rule's rate that its steady callers ask for."""
_OF_DENIED = 0.2
"""The requests a second of a caller whom a rule denies all."""

_PATIENCE = 5.0
"""Seconds for which a request waits for its turn."""
_MOST_WAITING = 200
_LATEST = 0.25
"""Seconds that a look may be late. Requests that were due before are left out: a stalled process does not catch up."""
_SEED = 18

_PATHS = ("search", "orders", "items", "users")


class Caller(NamedTuple):
    """A made-up caller: the attributes of its requests, their number a second, and when it asks.

    It asks for `length` seconds in each `period`, after `phase` seconds; always if `period` is 0.
    """

    attributes: dict[str, str]
    per_second: float
    period: float = 0.0
    phase: float = 0.0
    length: float = 0.0

    def rate(self, now: float) -> float:
        """Return its requests a second at a time."""
        if self.period and (now - self.phase) % self.period >= self.length:
            return 0.0
        return self.per_second


def callers_of(policy: RequestPolicy[Any]) -> list[Caller]:
    """Return callers that a policy charges: steady ones of each rule, one with bursts for each, and one abuser.

    A rule that is for none but secret or exempt values has none.
    """
    rules = [rule for rule in policy.keeper.policy.rules[:PLAYED_RULES] if _samples(policy, rule, [1])]
    limiting = [rule for rule in rules if not rule.limit.refuses_all]
    callers: list[Caller] = []
    for rule in rules:
        samples = _samples(policy, rule, range(1, CALLERS + 1))
        rate = _steady_rate(rule) / (1 if rule.key else len(samples))
        callers += [Caller(one, min(rate, STEADY / len(rules) / len(samples))) for one in samples]
    for place, rule in enumerate(limiting):
        requests = min(BURST, max(LEAST_BURST, 2 * rule.limit.max_cost))
        period, phase = BURST_EVERY * len(limiting), BURST_EVERY * place
        for one in _samples(policy, rule, [_BURSTING]):
            callers.append(Caller(one, requests / BURST_LENGTH, period, phase, BURST_LENGTH))
    strictest = sorted(limiting, key=lambda rule: (not rule.key, rule.limit.rate))[:1]
    callers += [Caller(one, ABUSE) for rule in strictest for one in _samples(policy, rule, [_ABUSER])]
    return callers


def _steady_rate(rule: Rule) -> float:
    """Return the requests a second that a rule's steady callers make of one bucket."""
    cost = rule.cost if isinstance(rule.cost, int) else 1
    return _OF_DENIED if rule.limit.refuses_all else _SHARE * float(rule.limit.rate) / cost


def _samples(policy: RequestPolicy[Any], rule: Rule, numbers: Iterable[int]) -> list[dict[str, str]]:
    """Return the attributes of each caller's requests, but for those that the rule would not charge."""
    compiled = policy.keeper.compiled
    [charging] = [one for one in compiled.rules if one.rule is rule]
    samples = []
    for number in numbers:
        attributes = _attributes(compiled.policy, rule, number)
        with suppress(BadRequestError):
            seen = compiled.seen(policy.reader.respell(attributes))
            if compiled.exempting(seen) is None and charging.why_not_charged(seen) is None:
                samples.append(attributes)
    return samples


def _attributes(policy: Policy, rule: Rule, number: int) -> dict[str, str]:
    """Return attributes that a rule may match, and that tell one caller from the others."""
    name = _NAMES.get(number, f"demo-{number}")
    attributes = dict.fromkeys(policy.names() | ALWAYS_KNOWN, name)
    attributes |= {"path": f"/{_PATHS[number % len(_PATHS)]}", "method": "GET", "client": f"192.0.2.{number}"}
    attributes |= {one.cost: "1" for one in policy.rules if isinstance(one.cost, str)}
    for attribute, patterns in rule.match.items():
        if attribute != "tier" or policy.tiers is None:
            attributes[attribute] = _value(patterns[number % len(patterns)], number, name, attribute)
    if policy.tiers is not None:
        attributes.pop("tier", None)
        values = list(_values_of_tier(policy, rule.match.get("tier", ())))
        if values and policy.tiers.by not in rule.match:
            attributes[policy.tiers.by] = values[number % len(values)]
    return attributes


def _values_of_tier(policy: Policy, tiers: tuple[str, ...]) -> Iterator[str]:
    """Yield the values that put a request in one of these tiers. A value that the policy has as a hash is unknown."""
    assert policy.tiers is not None
    if policy.tiers.default in tiers:
        return
    for value, tier in policy.tiers.tier_by_value.items():
        if tier in tiers and not is_hash(value):
            yield value


def _value(pattern: str, number: int, name: str, attribute: str) -> str:
    """Return a value that a pattern matches, unless it is a hash."""
    network = network_of(pattern)
    if network is not None:
        return str(network[number % network.num_addresses])
    wild = _PATHS[number % len(_PATHS)] if attribute == "path" else name
    return pattern.replace("*", wild).replace("?", str(number % 10))


class Demo:
    """Plays the callers of the policy that a core decides by, also after it is replaced. Needs a running loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._random = Random(_SEED)
        self._policy: object = None
        self._callers: list[Caller] = []
        self._waiting: set[asyncio.Task[object]] = set()

    async def run(self) -> NoReturn:
        """Play until cancelled."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        try:
            while True:
                await asyncio.sleep(TICK)
                now = loop.time()
                self.step(now, min(now - last, _LATEST))
                last = now
        finally:
            for task in self._waiting:
                task.cancel()

    def step(self, now: float, seconds: float) -> None:
        """Ask what was due in the last seconds."""
        policy = self._core.policy
        if policy is not self._policy:
            self._policy, self._callers = policy, callers_of(policy)
        for caller in self._callers:
            rate = caller.rate(now)
            if rate:
                for _ in range(int(rate * seconds + self._random.random())):
                    self._ask(caller.attributes)

    def _ask(self, attributes: Mapping[str, str]) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            return
        asked = CheckRequest(dict(attributes), timeout=_PATIENCE)
        charging = self._core.charge(ProgramExchange(self._core.limiter, asked))
        if charging is None or isinstance(charging, RatekeeperError):
            return
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(charging)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)


def demo_of(core: Core) -> list[Callable[[], Coroutine[Any, Any, NoReturn]]]:
    """Return the function that plays, if a process is the only one or the first worker, and the service is a demo."""
    return [Demo(core).run] if core.operator.demo and core.metrics.number <= 1 else []
