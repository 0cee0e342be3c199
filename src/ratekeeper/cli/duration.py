"""How the commands write a length of time for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return seconds as a short string with units.

    >>> [duration(seconds) for seconds in (0.25, 90, 7200, 7260, 172_800, 262_800)]
    ['0.25 s', '2 min', '2 h', '2 h 1 min', '2 days', '3 days 1 h']
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours else f"{days} days"
