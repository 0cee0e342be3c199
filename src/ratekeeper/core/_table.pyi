"""The C core. Same promises as pytable.py; `Gate` is the hot path of a limiter without any Python code on it."""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
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
    def throttle(
        self,
        cost: int,
        heads: tuple[bytes, bytes],
        counts: Counts,
        places: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
        /,
    ) -> Throttle | None: ...
    def fill_envoy_answer(
        self,
        decision: Decision,
        limits: tuple[bytes],
        head: bytes,
        states: Any,
        most: int,
        ends: dict[Any, bytes],
        key: Any,
        /,
    ) -> bytes | int | None:
        """As the function of this name, for a decision of this gate, which has one limit."""

class Throttle:
    """As `Throttles` of service/resp/throttle.py, for one limit and cost, but for the time that a question takes."""

    def answer(self, key: str | bytes, /) -> bytes: ...

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
    def decided(self, asked: Any, decision: PolicyDecision, /) -> None: ...

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
    def refused(self, asked: Any, decision: PolicyDecision, /) -> None: ...
    def add(self, label: str, key: str, /) -> None: ...
    def entries(self) -> list[tuple[str, str, int, int]]: ...
    def clear(self) -> None: ...

def find_header(lines: Any, name: str, is_list: bool, /) -> Any:
    """Return the value of a header, None if it is missing or empty, or NotImplemented if its lines are unusual."""

class Head:
    """The header lines of a usual request, as they came, and its target."""

    target: bytes
    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> tuple[bytes, bytes]: ...
    def __iter__(self) -> Iterator[tuple[bytes, bytes]]: ...

def read_head(piece: bytes, most_lines: int, /) -> Head | None:
    """Return the head of the request that a piece is, or None if it is unusual: see service/http/parser.py."""

def write_envoy_answer(statuses: list[Any], headers: list[tuple[bytes, bytes]], end: bytes, /) -> bytes:
    """As python_write_response in service/grpc/codec.py."""

def fill_envoy_answer(
    decision: PolicyDecision,
    limits: tuple[bytes, ...],
    head: bytes,
    states: Any,
    most: int,
    ends: dict[Any, bytes],
    key: Any,
    /,
) -> bytes | int | None:
    """As python_answer in service/grpc/answers.py, for one decision; None if only Python can tell.

    `ends` has the fields of a refusal after the headers about limits, by (key, seconds to wait). If they are missing,
    the seconds are returned.
    """

class LineReader:
    """As http/attributes.AttributeReader, for usual requests: see http/line_steps.py."""

    def __new__(cls, steps: tuple[Any, ...], /) -> LineReader: ...
    def read(self, lines: Any, peer: str | None, /) -> dict[str, str] | None:
        """Return the attributes of a request; None if it is unusual."""

def read_requests(piece: bytes, /) -> tuple[list[list[bytes]], int]:
    """As service/resp/requests.RequestReader, for a piece of whole usual requests; None if anything is unusual."""

class PolicyGate:
    def try_acquire(self, attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision: ...

class NativePolicyDecision(PolicyDecision): ...
