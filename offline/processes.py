"""Worker processes of long work: how many, and that none outlives the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import threading


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """In a worker: end as soon as the process that started it has, by a kill too.

    A pool's workers otherwise wait for ever on a queue whose other end they hold themselves.
    """
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
