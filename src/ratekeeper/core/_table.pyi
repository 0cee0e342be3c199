"""The C core. Same promises as pytable.py; `Gate` is the hot path of a limiter without any Python code on it."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from ratekeeper.decision import Charge, Decision
from ratekeeper.limits import Limit
from ratekeeper.policy.decision import PolicyDecision

def hold_time(held: int, ahead: int) -> None:
    """Have the system's clock tell the time `held`; or, with -1, the machine's and `ahead` ticks more."""

class NativeDecision(Decision): ...

class Table:
    """`seed` is 16 random bytes, the hash's key. `clock` None is the system's clock.

    `memory` is a writable buffer of `lines + 513` lines of 128 bytes, at first of zeros; None takes private memory.
    """

    def __init__(
        self, memory: Any, lines: int, deny_when_full: bool, seed: bytes, clock: Callable[[], int] | None
    ) -> None: ...
    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]: ...
    def refund(self, charges: Sequence[Charge], at_ticks: int) -> None: ...
    def adjust(self, scope: str, key: str | bytes, back_ticks: int, block_ticks: int | None) -> bool: ...
    def reset_scope(self, scope: str) -> bool: ...
    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool: ...
    def stats(self) -> tuple[int, int, int, int]: ...
    def close(self) -> None: ...
    def policy_gate(self, matcher: Matcher, asked: Callable[[list[Any]], list[Any]] | None) -> PolicyGate: ...
    def gate(self, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: Callable[..., Any]) -> Gate: ...

class Gate:
    def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision: ...
    def acquire(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision: ...
    def reserve(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision: ...
    def try_acquire_pending(self, key: str | bytes, cost: int = 1) -> Coroutine[Any, Any, Decision]: ...
    def acquire_pending(
        self, key: str | bytes, cost: int = 1, timeout: float | None = None
    ) -> Coroutine[Any, Any, Decision]: ...
    def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]: ...

class Matcher:
    """Finds the rules that charge a request. `program` is a policy's: see policy/compiled.py."""

    def __init__(self, program: Any) -> None: ...
    def match(self, attributes: Mapping[str, str]) -> list[Any] | str: ...

class KnownLimits:
    """As known_limits.KnownLimits."""

    limits: tuple[Limit, ...]
    stale_at: int
    def __new__(cls, limits: tuple[Limit, ...], stale_at: int, /) -> KnownLimits: ...

class Counts:
    """As counts.Counts. To raise a number is one step: no count of another thread or process is lost."""

    def __new__(cls, memory: Any, /) -> Counts: ...
    def add(self, places: int | tuple[int, ...], /) -> None: ...

class Recorder:
    """As service/recording/recorder.PythonRecorder."""

    left_out: int
    def __new__(
        cls,
        ring: Any,
        secret: bytes,
        changed: Callable[[Any], object],
        told: Callable[[PolicyDecision], tuple[int, int]],
        now: Callable[[], int],
        /,
    ) -> Recorder: ...
    def begin(
        self, keeper: Any, matcher: Matcher, schema: bytes, costs: tuple[int, ...], optional: tuple[int, ...], /
    ) -> bool: ...
    def decided(self, exchange: Any, decision: PolicyDecision, /) -> None: ...

class Sketch:
    """As service/live/sketch.PythonSketch."""

    def __new__(
        cls,
        places: int,
        secret: bytes,
        labels: Callable[[Any], tuple[str, ...]],
        told: Callable[[Any, PolicyDecision], list[tuple[str, str]]],
        cut: Callable[[str], str],
        /,
    ) -> Sketch: ...
    def refused(self, exchange: Any, decision: PolicyDecision, /) -> None: ...
    def add(self, label: str, key: str, /) -> None: ...
    def entries(self) -> list[tuple[str, str, int, int]]: ...
    def clear(self) -> None: ...

def find_header(lines: Any, name: str, is_list: bool, /) -> Any:
    """Return the value of a header, None if it is missing or empty, or NotImplemented if its lines are unusual."""

class LineReader:
    """As http/attributes.AttributeReader, for usual requests: see http/line_steps.py."""

    def __new__(cls, steps: tuple[Any, ...], /) -> LineReader: ...
    def read(self, lines: Any, peer: str | None, /) -> dict[str, str] | None:
        """Return the attributes of a request; None if it is unusual."""

class PolicyGate:
    def try_acquire(self, attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision: ...

class NativePolicyDecision(PolicyDecision): ...
