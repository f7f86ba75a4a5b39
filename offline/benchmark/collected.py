"""The records as a page needs them: found by data set, protocol and method, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from offline.benchmark.bootstrap import Interval
from offline.benchmark.data import SOURCES
from offline.benchmark.records import Protocol, Record, Variant

# Ours first, then by how much is known: nothing, texts, other users' logs.
GROUPS = ("judgements", "live", "history", "texts", "logs", "chance")


@dataclass(frozen=True)
class Collected:
    """All records, one for each data set, protocol, variant and method."""

    records: tuple[Record, ...]

    @classmethod
    def of(cls, records: Iterable[Record]) -> Collected:
        """Collect records; of two with the same data set, protocol, variant and method the later one is kept."""
        by_name = {(r.dataset, r.protocol, r.variant, r.method): r for r in records}
        return cls(tuple(by_name.values()))

    def datasets(self, protocol: Protocol) -> list[str]:
        """Names of the data sets that have records, in the order of SOURCES."""
        found = {record.dataset for record in self.records if record.protocol == protocol}
        return [name for name in SOURCES if name in found]

    def of_protocol(self, dataset: str, protocol: Protocol, variant: Variant = "likes") -> list[Record]:
        """Records in the order of GROUPS, each group by its titles."""
        found = [r for r in self.records if (r.dataset, r.protocol, r.variant) == (dataset, protocol, variant)]
        return sorted(found, key=lambda r: (GROUPS.index(group_of(r)), title_of(r)) if "group" in method_of(r) else ())

    def find(self, dataset: str, protocol: Protocol, method: str, variant: Variant = "likes") -> Record | None:
        """The record of that name."""
        return next((r for r in self.of_protocol(dataset, protocol, variant) if r.method == method), None)

    def methods(self, protocol: Protocol) -> Iterator[Record]:
        """One record of each method of a protocol, in the order of GROUPS."""
        seen: dict[str, Record] = {}
        for dataset in self.datasets(protocol):
            for record in self.of_protocol(dataset, protocol):
                seen.setdefault(record.method, record)
        yield from sorted(seen.values(), key=lambda r: (GROUPS.index(group_of(r)), title_of(r)))


def method_of(record: Record) -> dict[str, object]:
    """Return the method's part of a record's configuration."""
    return dict(record.configuration["method"])


def group_of(record: Record) -> str:
    """One of GROUPS."""
    return str(method_of(record)["group"])


def title_of(record: Record) -> str:
    """The method's name for people."""
    return str(method_of(record)["title"])


def dataset_title(name: str) -> str:
    """The data set's name for people."""
    return SOURCES[name].title


def metric(record: Record | None, name: str) -> Interval | None:
    """A metric with its interval, if the record has it."""
    found = record.metrics.get(name) if record is not None else None
    return None if found is None else Interval(*found)


def difference(record: Record | None, reference: str, name: str) -> Interval | None:
    """The paired difference of a metric from a reference method."""
    found = record.differences.get(reference, {}).get(name) if record is not None else None
    return None if found is None else Interval(*found)
