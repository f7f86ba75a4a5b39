"""The texts of a catalogue as an encoder reads them: which one, and what it does not know or cannot tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from offline.datasets import Dataset
from offline.errors import OfflineError
from offline.states import Embeddings

Choice = Literal["auto", "minilm", "e5", "hashing"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
_SHOWN = 40  # characters of a text in a message


@dataclass(frozen=True)
class Reading:
    """What an encoder makes of a catalogue's texts."""

    encoder: str
    n_items: int
    foreign_letters: float  # share of all letters that are not Latin
    unknown: float  # share of a text that the encoder does not know, mean over items
    n_unread: int  # items of whose text it knows less than half
    n_same: int  # items with the vector of another one, though their texts differ
    same: tuple[str, str] | None  # two such texts

    def warnings(self) -> list[str]:
        """Return what an operator should know, in sentences; nothing if all texts can be read and told apart."""
        found = []
        if self._is_foreign:
            found.append(
                f"{self.foreign_letters:.0%} of the letters are not Latin, and {self.encoder} knows no meaning of them"
            )
        if self.n_unread:
            found.append(
                f"{self.encoder} knows less than half of the text of {self.n_unread:,} of {self.n_items:,} items"
            )
        if self.same is not None:
            first, second = (repr(text[:_SHOWN]) for text in self.same)
            found.append(
                f"{self.n_same:,} of {self.n_items:,} items have the same vector as another one, such as {first} and"
                f" {second}; only what users do can tell them apart"
            )
        if found and self.encoder != "e5" and self.foreign_letters > 0:
            found[-1] += "; --encoder e5 reads some hundred languages"
        return found

    @property
    def _is_foreign(self) -> bool:
        from service.policy.encoders import MOST_FOREIGN

        return self.encoder != "e5" and self.foreign_letters > MOST_FOREIGN


def choose_encoder(dataset: Dataset, choice: Choice) -> str:
    """Name of the encoder: `choice` itself, or what reads the catalogue's script if that is "auto"."""
    from service.policy.encoders import best_encoder  # takes torch along

    return best_encoder(_texts(dataset)) if choice == "auto" else choice


def embed_items(dataset: Dataset, encoder: str) -> Embeddings:
    """Unit rows [A, d] of the items' texts and categories.

    Raises:
        OfflineError: no such encoder, or its package is not installed.
    """
    from service.policy.encoders import load_text_encoder

    try:
        return load_text_encoder(encoder).encode(_texts(dataset))
    except (ValueError, ModuleNotFoundError) as error:
        raise OfflineError(f"--encoder: {error}") from None


def read_texts(dataset: Dataset, encoder: str, embeddings: Embeddings) -> Reading:
    """Tell how the encoder that gave `embeddings` [A, d] read the items."""
    from service.policy.encoders import foreign_letters, load_text_encoder
    from service.policy.text import twins

    texts = _texts(dataset)
    # What has the same text is rightly the same, too.
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    rows = sorted(first.values())
    twin = {
        texts[row]: texts[rows[other]] for row, other in zip(rows, twins(embeddings[rows]), strict=True) if other >= 0
    }
    unknown = load_text_encoder(encoder).unknown(texts)
    return Reading(
        encoder=encoder,
        n_items=len(texts),
        foreign_letters=foreign_letters(texts),
        unknown=sum(unknown) / max(1, len(unknown)),
        n_unread=sum(share > 0.5 for share in unknown),
        n_same=sum(text in twin for text in texts),
        same=next(iter(twin.items()), None),
    )


def _texts(dataset: Dataset) -> list[str]:
    from service.policy.text import item_text

    return [item_text(item.text, item.categories) for item in dataset.items]
