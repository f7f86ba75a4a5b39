"""One thread a process for its arithmetic: more of them wait for each other next to other processes of ours."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits


def one_thread() -> None:
    """Hold torch and NumPy's BLAS to one thread from now on, whatever the environment says."""
    torch.set_num_threads(1)
    threadpool_limits(1)
