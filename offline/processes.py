"""Worker processes of long work: how many, and that none outlives the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve_parent() -> None:
    """In a worker, first of all: Ctrl-C is the parent's to answer, and its end, a kill too, is ours.

    A pool's workers otherwise wait for ever on a queue whose other end they hold themselves.
    """
    # Ctrl-C reaches the whole process group: the parent decides, the worker finishes what it has.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
