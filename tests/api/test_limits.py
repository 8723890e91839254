"""Token buckets: nobody asks more often than allowed, and the memory of who asked has an end."""

from __future__ import annotations

import random

import pytest

from api.limits import Limiter, network


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_and_fills_again() -> None:
    clock = Clock()
    limiter = Limiter(60, clock)
    assert [limiter.take("a").remaining for _ in range(60)] == list(range(59, -1, -1))
    refused = limiter.take("a")
    assert (refused.wait, refused.remaining, refused.full) == (1, 0, 60)
    assert refused.headers == {"RateLimit-Limit": "60", "RateLimit-Remaining": "0", "RateLimit-Reset": "60", "Retry-After": "1"}
    assert "Retry-After" not in limiter.take("b").headers
    clock.now += 1
    assert [limiter.take("a").wait for _ in range(2)] == [0, 1]
    clock.now += 3600
    assert limiter.take("a").remaining == 59


def test_who_waits_as_told_is_let_in() -> None:
    clock = Clock()
    limiter = Limiter(7, clock)
    for _ in range(50):
        while (allowance := limiter.take("a")).wait == 0:
            pass
        clock.now += allowance.wait
        assert limiter.take("a").wait == 0


def test_no_pattern_of_asking_gets_more_than_the_rate() -> None:
    clock, dice = Clock(), random.Random(1)
    limiter, let_in, start = Limiter(30, clock), 0, Clock.now
    for _ in range(5000):
        clock.now += dice.choice([0.0, 0.01, 0.5, 5.0])
        let_in += limiter.take("a").wait == 0
    assert let_in <= 30 + (clock.now - start) * 30 / 60


def test_refusals_cost_nothing() -> None:
    clock = Clock()
    limiter = Limiter(1, clock)
    for _ in range(100):
        limiter.take("a")
    clock.now += 60
    assert limiter.take("a").wait == 0


def test_only_the_last_callers_are_remembered() -> None:
    limiter = Limiter(5, Clock(), callers=100)
    for number in range(10_000):
        limiter.take(str(number))
        limiter.take("steady")
    assert len(limiter._buckets) == 100
    assert limiter.take("steady").wait > 0  # who keeps asking is not forgotten
    assert limiter.take("9990").remaining == 3


@pytest.mark.parametrize(
    ("host", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
        (None, ""),
    ],
)
def test_an_address_stands_for_who_has_it(host: str | None, caller: str) -> None:
    assert network(host) == caller
