"""Every page's commands, run as written: the tutorial from nothing, the guides on what it leaves behind."""

from __future__ import annotations

import codeop
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.processes import free_port
from tests.docs import scripted_llm
from tests.docs.documents import ROOT, DocumentError, Reader, blocks

DOCS = ROOT / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))


@pytest.fixture(scope="module")
def language_model() -> Iterator[str]:
    with scripted_llm.serving(DOCS / "examples/books.jsonl") as url:
        yield url


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, language_model: str) -> tuple[Path, list[str]]:
    """The folder in which the tutorial was followed, and what its blocks printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    return folder, Reader(folder, free_port(), language_model).follow(DOCS / "tutorial.md")


def number_after(words: str, said: str) -> float:
    return float(said.partition(words)[2].split()[0])


def test_the_tutorials_shop_learns_what_its_model_did_not_expect(followed: tuple[Path, list[str]]) -> None:
    said = "\n".join(followed[1])
    before, after = re.findall(r"chance of The War of the Worlds: ([0-9.]+)", said)
    assert float(after) > 1.3 * float(before)
    assert number_after("the last 100 visitors:", said) > 1.5 * number_after("the first 100 visitors:", said)
    pretrained, newest = re.findall(r"SNIPS +│ ([0-9.]+) │ ([0-9.]+) … ([0-9.]+)", said)[::2]  # per slot
    assert float(newest[1]) > float(pretrained[2])
    rolled_back, frozen, active = (json.loads(answer) for answer in re.findall(r'{"live_version".*?}', said))
    assert (rolled_back["live_version"], rolled_back["mode"]) == (3, "held")
    assert (frozen["mode"], active["mode"]) == ("frozen", "auto")


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_guide(page: Path, followed: tuple[Path, list[str]], language_model: str, tmp_path: Path) -> None:
    for name in ("dataset", "distil", "snapshot"):
        shutil.copytree(followed[0] / "runs/books" / name, tmp_path / "runs/books" / name)
    reader = Reader(tmp_path, free_port(), language_model)
    reader.start("python -m service dev --snapshot runs/books/snapshot", "the tutorial's service")
    reader.follow(page)


def test_a_page_whose_command_fails_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```bash\nexport A=1\n```\n\n```bash\necho $A; ls nowhere\n```\n")
    with pytest.raises(DocumentError, match=r"(?s)page.md:7 ended with 2:.*1\n"):
        Reader(tmp_path, 1, "").follow(page)


def test_blocks_are_found_with_what_is_said_of_them() -> None:
    page = (
        'a\n```json title="f.json"\n{}\n```\n<!-- not run: needs Docker -->\n```bash\nls\n```\n'
        "    ```python\n    x\n    ```\n"
    )
    found = [(block.language, block.title, block.text, block.line, block.reason) for block in blocks(page)]
    assert found == [
        ("json", "f.json", "{}\n", 2, None),
        ("bash", None, "ls\n", 6, "needs Docker"),
        ("python", None, "x\n", 9, None),
    ]


@pytest.mark.parametrize("page", [DOCS / "tutorial.md", *GUIDES], ids=lambda page: page.stem)
def test_commands_stand_in_blocks_that_are_run(page: Path) -> None:
    """No command hides in a block without a language or in an indented one."""
    text = page.read_text(encoding="utf-8")
    assert {block.language for block in blocks(text)} <= {"bash", "python", "json", "csv", "text", "typescript"}
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert not re.findall(r"^    (?:\.venv/bin/)?(?:python|curl|docker|pip) ", outside, flags=re.MULTILINE)


@pytest.mark.parametrize("page", [DOCS / "tutorial.md", *GUIDES], ids=lambda page: page.stem)
def test_python_can_be_typed_as_it_stands(page: Path) -> None:
    """As an interactive Python wants it: a blank line after what is indented."""
    for block in blocks(page.read_text(encoding="utf-8")):
        waiting: list[str] = []
        for line in [*block.text.splitlines(), ""] if block.language == "python" else ():
            waiting.append(line)
            if codeop.compile_command("\n".join(waiting), f"{page.name}:{block.line}", "single") is not None:
                waiting = []
        assert not waiting
