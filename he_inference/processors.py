"""Where work is done: how many processors this process may use, and the name of none but them."""

import os

CPU = "cpu"
"""The device that every machine has; others are torch's."""


def processors() -> int:
    """At most as many as the machine has; fewer where the process is bound to some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
