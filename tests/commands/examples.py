"""The three programs, as the tests of their commands call them."""

from __future__ import annotations

from collections.abc import Callable

import offline.__main__
import service.__main__
import simulator.__main__

MAINS = {"service": service.__main__, "offline": offline.__main__, "simulator": simulator.__main__}
End = tuple[int, str, str]  # exit code, stdout, stderr
Run = Callable[..., End]
