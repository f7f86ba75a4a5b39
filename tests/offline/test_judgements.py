from __future__ import annotations

from pathlib import Path

import pytest

from offline.errors import OfflineError
from offline.judgements import Judgement, JudgementCache


def _judgement(n: int) -> Judgement:
    return Judgement(f"key{n}", (("a", 1), ("b", -1)), f"item{n}", "likelihood", "fake", "1", -0.5 * n, n)


def test_what_was_added_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "judgements.jsonl"
    cache = JudgementCache(path)
    cache.add([_judgement(1), _judgement(2)])
    cache.add([_judgement(3)])
    cache.close()
    reopened = JudgementCache(path)
    assert reopened.values() == [_judgement(1), _judgement(2), _judgement(3)]
    assert reopened.get("key2") == _judgement(2)
    assert reopened.get("key9") is None
    reopened.close()


def test_a_file_torn_at_any_byte_loses_only_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    cache = JudgementCache(path)
    cache.add([_judgement(1), _judgement(2)])
    cache.close()
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    for end in range(len(data)):
        path.write_bytes(data[:end])
        torn = JudgementCache(path)
        assert len(torn) == (end >= first)
        torn.add([_judgement(7)])
        torn.close()
        whole = JudgementCache(path)
        assert whole.values()[-1] == _judgement(7)
        whole.close()


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    path.write_text('{"key": 3}\n')
    with pytest.raises(OfflineError, match=r"judgements\.jsonl:1: not a judgement"):
        JudgementCache(path)
    path.write_text("")
    JudgementCache(path).close()  # the failed attempt has let go of the lock


def test_a_second_writer_is_told(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    cache = JudgementCache(path)
    with pytest.raises(OfflineError, match="another process is writing"):
        JudgementCache(path)
    cache.close()
    JudgementCache(path).close()
