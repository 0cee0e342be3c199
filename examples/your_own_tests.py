"""Test code that is limited, without sleeping: give the store your own clock.

python examples/your_own_tests.py
"""

from ratekeeper import Limiter, ManualClock, MemoryStore


def test_a_sixth_login_within_a_minute_is_refused() -> None:
    clock = ManualClock()
    logins = Limiter("5/minute", store=MemoryStore(clock=clock))
    assert all(logins.try_acquire("alice") for _ in range(5))
    assert not logins.try_acquire("alice")
    assert logins.try_acquire("bob"), "others are not affected"
    clock.advance(12)
    assert logins.try_acquire("alice"), "one more each 12 seconds"


if __name__ == "__main__":
    test_a_sixth_login_within_a_minute_is_refused()
    print("passed, without waiting a minute")
