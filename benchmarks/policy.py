"""`python -m benchmarks.policy`: a policy beside other libraries with the same rules by hand, and its cost by its size.

The other libraries have no policies. Their documents show one limiter for each limit, so the application looks for the
tier, matches the path and asks limiter after limiter. It does so here, by `ByHand`. Their answers are not all or
nothing. Libraries that keep a log of requests are left out, as the limits here are never used up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from time import monotonic_ns
from typing import Any

from benchmarks import results, timing
from benchmarks.contenders import Contender, Rate
from benchmarks.peers import DISTRIBUTIONS, build_pyrate, peer_entrants
from benchmarks.results import Table, ratio, ratio_row, table_of, target
from benchmarks.timing import Case, run_rounds
from ratekeeper import Keeper, Limiter, Policy, TokenBucket
from ratekeeper.policy.lookups.lookup import Lookup
from ratekeeper.policy.model import Override, Rule, Tiers

EXAMPLE = Path(__file__).parent.parent / "examples" / "policy.toml"
REQUEST = {"api_key": "k-alice", "client": "192.0.2.7", "path": "/api/search", "method": "GET"}
PLENTY, NONE = TokenBucket(100_000_000, "100000000/hour"), TokenBucket(1, "1/day")
CALLS = 400

HAND = "The same rules: examples/policy.toml"
ONE_KEY = "Three limits of one key"
COST = "A policy's cost"
SIZE = "examples/policy.toml with many entries"
RULES_MATCH, RULES_OTHERS = "Cost by number of rules: all match", "Cost by number of rules: one matches"
COUNTS = (1, 3, 10, 30, 100)
OVERRIDES, TIERS, NETWORKS = 50_000, 50_000, 8_000
POLICY, KEEPER_ONE, KEEPER_EXAMPLE = "ratekeeper, Keeper", "Keeper, one rule", "Keeper, examples/policy.toml"
LOOKED_UP, CLOCK = "Keeper, one rule, its limit looked up", "time.monotonic_ns()"
NOTHING = "the rules by hand, without a limiter"


def with_limit(policy: Policy, limit: TokenBucket) -> Policy:
    """Return the policy with this limit in all rules: one that is never used up, or one that always is."""
    return replace(policy, rules=tuple(replace(rule, limit=limit, overrides=()) for rule in policy.rules))


# ---- several limits, tiers and paths, by hand ----


class ByHand:
    """The rules of examples/policy.toml as an application writes them around limiters of another library."""

    def __init__(self, build: Callable[[Rate], Contender], rate: Rate) -> None:
        self._tiers = {"k-alice": "pro", "k-bob": "pro"}
        self._api_keys = {"free": build(rate), "pro": build(rate)}
        self._bob, self._addresses, self._reports = build(rate), build(rate), build(rate)

    def ask(self, request: Mapping[str, str]) -> bool:
        """Return whether every limit that is for the request admits it."""
        path, api_key = request["path"], request["api_key"]
        if fnmatchcase(path, "/api/*"):
            tier = self._tiers.get(api_key, "free")
            limiter = self._bob if api_key == "k-bob" else self._api_keys[tier]
            if not limiter.allowed(limiter.ask(api_key)):
                return False
        if not self._addresses.allowed(self._addresses.ask(request["client"])):
            return False
        if request["method"] == "POST" and fnmatchcase(path, "/api/reports/*"):
            return self._reports.allowed(self._reports.ask("all"))
        return True


def no_limiter(_: Rate) -> Contender:
    return Contender(bool)


def rules_by_hand() -> Iterator[Case]:
    """The example's policy, beside its rules by hand around each peer's limiters."""
    rate = Rate(PLENTY.capacity)
    ours = Keeper(with_limit(Policy.load(EXAMPLE), PLENTY)).try_acquire
    yield asked(HAND, POLICY, ours, REQUEST, True)
    yield asked(HAND, NOTHING, ByHand(no_limiter, rate).ask, REQUEST, True)
    for entrant in peer_entrants().values():
        if entrant.exact and not entrant.log:
            by_hand = ByHand(entrant.build, rate)
            yield asked(HAND, entrant.name, by_hand.ask, REQUEST, True)


def three_limits() -> Iterator[Case]:
    """Three limits of one key. pyrate-limiter takes them at once; the others need a limiter for each."""
    rates = Rate(1_000_000, 1), Rate(50_000_000, 60), Rate(2_000_000_000, 3600)
    ours = Limiter(*(TokenBucket(rate.count, f"{rate.count}/{rate.seconds}s") for rate in rates)).try_acquire
    yield asked(ONE_KEY, "ratekeeper, Limiter", ours, "alice", True)
    for entrant in peer_entrants().values():
        if entrant.log or not entrant.exact:
            continue
        if entrant.name.startswith("pyrate"):
            limiter = build_pyrate("gcra", *rates)
            yield asked(ONE_KEY, entrant.name, limiter.ask, "alice", True)
        else:
            yield asked(ONE_KEY, entrant.name, in_turn([entrant.build(rate) for rate in rates]), "alice", True)


def in_turn(limiters: list[Contender]) -> Callable[[str], bool]:
    """Return what asks all of them, up to the first that refuses."""

    def ask(key: str) -> bool:
        for limiter in limiters:  # noqa: SIM110  a generator would cost more
            if not limiter.allowed(limiter.ask(key)):
                return False
        return True

    return ask


# ---- a policy's cost ----


def verb_cases() -> Iterator[Case]:
    """One limit as a limiter and as a policy, and the example's policy, for a request that passes and one that not."""
    example = Policy.load(EXAMPLE)
    one = Policy((Rule("each key", PLENTY, key=("api_key",)),))
    yield Case(COST, CLOCK, partial(timing.plain, monotonic_ns, CALLS))
    yield asked(COST, "Limiter, one limit", Limiter(PLENTY).try_acquire, "k-alice", True)
    yield asked(COST, KEEPER_ONE, Keeper(one).try_acquire, REQUEST, True)
    looked_up = Policy((replace(one.rules[0], lookup=Lookup("plan")),))
    yield asked(COST, LOOKED_UP, Keeper(looked_up, limits={"plan": lambda _: PLENTY}).try_acquire, REQUEST, True)
    yield asked(COST, "Keeper, one rule, refused", Keeper(with_limit(one, NONE)).try_acquire, REQUEST, False)
    yield asked(COST, KEEPER_EXAMPLE, Keeper(with_limit(example, PLENTY)).try_acquire, REQUEST, True)
    refuses = Keeper(with_limit(example, NONE)).try_acquire
    yield asked(COST, "Keeper, examples/policy.toml, refused", refuses, REQUEST, False)


def rules_cases() -> Iterator[Case]:
    for count in COUNTS:
        name = f"{count} rule{'s' * (count > 1)}"
        matching = [Rule(f"rule {number}", PLENTY, {"path": ("/api/*",)}, ("api_key",)) for number in range(count)]
        others = [replace(rule, match={"path": (f"/v{n}/*",)}) for n, rule in enumerate(matching[1:])]
        calls = max(20, CALLS // count)
        yield asked(RULES_MATCH, name, Keeper(Policy(tuple(matching))).try_acquire, REQUEST, True, calls)
        yield asked(RULES_OTHERS, name, Keeper(Policy((matching[0], *others))).try_acquire, REQUEST, True, calls)


def size_policies() -> Iterator[tuple[str, Policy]]:
    """Yield the example's policy with very many entries of a kind. None of them is for the request but the last."""
    example = with_limit(Policy.load(EXAMPLE), PLENTY)
    assert example.tiers is not None
    keys = tuple(f"k-{number}" for number in range(OVERRIDES - 1))
    overrides = tuple(Override({"api_key": (key,)}, PLENTY) for key in (*keys, "k-alice"))
    rules = tuple(replace(rule, overrides=overrides) if rule.name == "pro keys" else rule for rule in example.rules)
    yield f"{OVERRIDES:,} overrides", replace(example, rules=rules)

    tiers = dict.fromkeys((f"k-{number}" for number in range(TIERS - 1)), "pro") | {"k-alice": "pro"}
    yield f"{TIERS:,} keys in tiers", replace(example, tiers=Tiers("api_key", "free", tiers))

    networks = tuple(f"10.{number >> 8}.{number & 255}.0/24" for number in range(NETWORKS))
    yield f"{NETWORKS:,} exempt networks", replace(example, exempt=({"client": networks},))


def size_cases() -> Iterator[Case]:
    example = with_limit(Policy.load(EXAMPLE), PLENTY)
    for name, large in size_policies():
        yield asked(SIZE, name, Keeper(large).try_acquire, REQUEST, True)
        yield asked(SIZE, f"without {name}", Keeper(example).try_acquire, REQUEST, True)


def asked(
    group: str, name: str, ask: Callable[[Any], object], about: object, allowed: bool, calls: int = CALLS
) -> Case:
    """Return the case of a question that is asked again and again, and is answered as it should be."""

    def check() -> None:
        if bool(ask(about)) is not allowed:
            raise RuntimeError(f"{group}, {name}: a request should have been {'allowed' if allowed else 'refused'}")

    ask(about)
    check()
    return Case(group, name, partial(timing.hot, ask, about, calls), after=check)


def measure(quick: bool) -> list[Table]:
    results.say("compiling policies")
    cases = [*rules_by_hand(), *three_limits(), *verb_cases(), *rules_cases(), *size_cases()]
    run_rounds(cases, 8 if quick else 60, results.say_round("policy"))
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    named = {(case.group, case.name): case for case in cases}
    ours = {"x ratekeeper": named[HAND, POLICY]}
    pairs = [
        ratio_row(large.name, large, small, {"ns with": large, "ns without": small})
        for large, small in zip(groups[SIZE][::2], groups[SIZE][1::2], strict=True)
    ]
    clock, example = named[COST, CLOCK], named[COST, KEEPER_EXAMPLE]
    targets = [target(f"{KEEPER_EXAMPLE}, x {CLOCK}: at most 10", ratio(example, clock), most=10)]
    look_up = ratio(named[COST, LOOKED_UP], named[COST, KEEPER_ONE])
    targets.append(target("a limit that was looked up, x a fixed one: at most 1.3", look_up, most=1.3))
    targets += [target(f"{row.name}, x without: at most 1.2", (row.best, row.median), most=1.2) for row in pairs]
    return [
        Table("Targets of a policy", "measured", targets),
        table_of(HAND, "ns a request", groups[HAND], ours),
        table_of(ONE_KEY, "ns a request", groups[ONE_KEY], {"x ratekeeper": groups[ONE_KEY][0]}),
        table_of(COST, "ns a request", groups[COST], {"x clock": clock, "x Limiter": groups[COST][1]}),
        *(
            table_of(title, "ns a request", groups[title], {"x one rule": groups[title][0]})
            for title in (RULES_MATCH, RULES_OTHERS)
        ),
        Table(SIZE, "x without", pairs),
    ]


if __name__ == "__main__":
    results.main("policy", measure, DISTRIBUTIONS)
