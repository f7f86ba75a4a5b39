"""All commands of all three command lines: pages that teach, mistakes that name the fix, how they end, completion."""

from __future__ import annotations

import errno
import itertools
import os
import shlex
import socket
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from offline.datasets_command import SOURCES
from offline.evaluate_command import ArmName
from offline.pretrain import PretrainConfig
from offline.sources import FOLDER_SOURCES
from service.command_line import exits
from service.policy.variants import Arm
from tests.commands.examples import MAINS, Run


def tree(package: str) -> dict[tuple[str, ...], Any]:
    """Every group and command of a package by its words, as a user would say them."""
    found: dict[tuple[str, ...], Any] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), get_command(MAINS[package].app))]
    while waiting:
        words, command = waiting.pop()
        found[words] = command
        waiting += [((*words, name), below) for name, below in getattr(command, "commands", {}).items()]
    return found


PAGES = [(package, *words) for package in MAINS for words in sorted(tree(package))]


def examples(epilog: str) -> list[list[str]]:
    """The words of each example on a page, without the variables that it sets."""
    lines = epilog.replace("\\\n", " ").splitlines()[2:]
    return [list(itertools.dropwhile(lambda word: "=" in word, shlex.split(line))) for line in lines]


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_a_page_says_what_it_needs_and_writes_and_has_an_example(page: tuple[str, ...]) -> None:
    package, *words = page
    command = tree(package)[tuple(words)]
    assert command.epilog, "no example"
    assert all(len(line) <= 78 for line in command.epilog.splitlines()), "a terminal of 80 columns would break it"
    for option in command.params:
        assert getattr(option, "help", None), f"{option.name} has no help"
    grouped = {getattr(option, "rich_help_panel", None) for option in command.params}
    assert len(command.params) <= 8 or len(grouped) > 1, "many options want groups"
    if not words:
        assert "Exit codes: 0 " in command.help and f"ialp-{package} --install-completion" in command.help
    elif words[0] != "keys":
        assert "Needs: " in command.help and "Writes: " in command.help and "Ctrl-C" in command.help


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_examples_parse_as_they_are_written(page: tuple[str, ...]) -> None:
    package, *words = page
    for python, option, other, *arguments in examples(tree(package)[tuple(words)].epilog):
        assert (python, option) == ("python", "-m")
        commands = tree(other)
        for command in commands.values():
            if not hasattr(command, "commands"):
                command.callback = None
        commands[()].main(arguments, standalone_mode=False)


@pytest.mark.parametrize("columns", [80, 120])
def test_no_option_is_cut_off(columns: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", columns)
    for package, *words in PAGES:
        code, page, _ = run(package, *words, "--help")
        assert code == 0 and "…" not in page, (package, words)


def test_help_waits_for_no_torch() -> None:
    script = (
        "import sys, service.__main__, offline.__main__, simulator.__main__\n"
        "print([name for name in ('torch', 'fastapi', 'matplotlib', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_choices_and_defaults_on_the_pages_are_those_that_count() -> None:
    assert ("movielens", *FOLDER_SOURCES, "catalogue") == SOURCES
    assert get_args(ArmName) == tuple(Arm)
    shown = {option.name: option.default for option in tree("offline")[("pretrain",)].params}
    config = PretrainConfig()
    assert (shown["prior_weight"], shown["personal_weight"], shown["seed"]) == (
        config.prior_weight,
        config.personal_weight,
        config.seed,
    )
    (temperature,) = (option for option in tree("offline")[("pretrain",)].params if option.name == "temperature")
    assert temperature.default is None and temperature.show_default == str(config.network.temperature)


@pytest.mark.parametrize("package", MAINS)
def test_version(package: str, run: Run) -> None:
    assert run(package, "--version") == (0, f"ialp {version('ialp')}\n", "")


# -- mistakes ----------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("offline distill", "'distil'"),
    ("offline distil --rnu x", "--run"),
    ("offline distil", "'--run'"),
    ("offline distil --run run --concurrency 0", "greater than or equal to 1"),
    ("offline distil --run run --style guess", "'likelihood'"),
    ("offline distil --run nowhere", "python -m offline datasets"),
    ("offline distil --run items.jsonl", "python -m offline datasets"),
    ("offline distil --run run --endpoint http://127.0.0.1:1/v1 --model m", "start it"),
    ("offline distil --run run --endpoint http://host:port/v1 --model m", "http://127.0.0.1:8000/v1"),
    ("offline distil --run run --gguf items.jsonl", "not a GGUF model"),
    ("offline pretrain --run nowhere", "python -m offline datasets"),
    ("offline pretrain --run run", "python -m offline distil"),
    ("simulator evaluate --run run", "python -m offline pretrain"),
    ("offline evaluate --log none.parquet --snapshot x", "python -m service export"),
    ("offline benchmark --methods none --results out", "item_knn"),
    ("offline benchmark --datasets lfm,none --results out", "--datasets none"),
    ("offline datasets --out out --source catalogue --items none.csv", "--items none.csv"),
    ("offline datasets --out out --source catalogue --items bad.jsonl", "bad.jsonl:2"),
    ("offline datasets --out out --source catalogue --items bad.csv", "bad.csv:3"),
    ("offline datasets --out out --source catalogue --items bad.parquet", "bad.parquet"),
    ("offline datasets --out items.jsonl/out --source catalogue --items items.jsonl", "check the path"),
    ("simulator lod", "'load'"),
    ("simulator load --dataset run/dataset --out out", "--max-seconds"),
    ("simulator load --dataset run/dataset --out out --sessions 1 --url http://127.0.0.1:1", "service dev"),
    ("simulator load --dataset run/dataset --out out --sessions 1 --api-key-file none", "service keys create"),
    ("simulator users --dataset nowhere --out out", "python -m offline datasets"),
    ("simulator personas --url http://127.0.0.1:1", "service dev"),
    ("simulator personas --least 10", "--most-likes 10"),
    ("simulator personas --arm best", "'adaptive'"),
    ("simulator personas --api-key-file none", "service keys create"),
    ("simulator experiment --config none.toml", "check the path"),
    ("simulator experiment --methods none", "linucb"),
    ("simulator results --results nowhere", "python -m simulator experiment"),
    ("simulator tune --settings none.toml", "check the path"),
    ("service dev --snapshot run/dataset/none", "python -m offline pretrain"),
    ("service dev", "give --snapshot FOLDER"),
    ("service dev --snapshot run/dataset", "is not a snapshot"),
    ("service dev --snapshot old", "format 2, this version reads 3: run `python -m offline pretrain` again"),
    ("service dev --port 70000", "65535"),
    ("service keys creat", "'create'"),
    ("service keys create --name x --scopes all", "feedback"),
    ("service keys revoke", "'key_id'"),
]


@pytest.mark.parametrize(("line", "fix"), MISTAKES)
def test_a_mistake_is_one_line_that_names_the_fix(
    line: str, fix: str, run: Run, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("items.jsonl").write_text('{"id": 1, "text": "a"}\n')
    Path("old").mkdir()
    Path("old/manifest.json").write_text('{"format": 2}')
    Path("bad.jsonl").write_text('{"id": 1, "text": "a"}\n{"id": 2}\n')
    Path("bad.csv").write_text("id,text\n1,a\n2\n")
    Path("bad.parquet").write_text("no parquet")
    code, out, err = run(*line.split())
    *listed, error = err.splitlines()
    assert (code, out) == (2, "")
    assert error.startswith("error: ") and fix in error
    assert all(row.startswith("bad.") for row in listed), "only rows that cannot be used stand above"


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"IALP_PORT": "web"}, "IALP_PORT"),
        ({"IALP_LEARNER_CONFIG": "{"}, "IALP_LEARNER_CONFIG"),
        ({"REDIS_URL": "redis://:s3cret@127.0.0.1:1"}, "REDIS_URL"),
        ({"IALP_REDIS_URL": "http://:s3cret@127.0.0.1:1"}, "REDIS_URL"),
    ],
)
@pytest.mark.parametrize("command", ["keys list", "export --out out.parquet"])
def test_a_wrong_setting_is_named_by_its_variable(
    command: str, variables: dict[str, str], told: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, _, err = run("service", *command.split())
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and told in err
    assert "s3cret" not in err


def test_a_variable_that_is_no_setting_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IALP_CONTROL_SHAR", "0.2")
    monkeypatch.setenv("IALP_API_KEY_FILE", "known elsewhere")
    _, _, err = run("service", "keys", "list")
    warned = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert warned == ["warning: IALP_CONTROL_SHAR is not a setting; did you mean IALP_CONTROL_SHARE?"]


@pytest.mark.parametrize(("host", "auth"), [("192.0.2.1", "on"), ("127.0.0.1", "off")])
def test_dev_asks_for_keys_where_others_can_reach_it(
    host: str, auth: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(settings: Any) -> None:
        sys.exit(f"auth {settings.auth}")

    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    monkeypatch.setattr("service.cli.processes._require_snapshot", stop)
    monkeypatch.setenv("IALP_HOST", host)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # it sets its own
    with pytest.raises(ValueError, match=f"auth {auth}"):
        run("service", "dev")


@pytest.mark.parametrize("command", ["api", "dev"])
def test_a_port_in_use(command: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    (tmp_path / "policies/00000001").mkdir(parents=True)  # of a deployment that has one
    monkeypatch.setenv("IALP_DATA_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("IALP_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("IALP_AUTH", "off")
        code, _, err = run("service", command)
    assert code == 2 and err.startswith("error: port ") and "IALP_PORT" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "make room"),
        (PermissionError(errno.EACCES, "Permission denied", "run/dataset"), 2, "run/dataset: permission denied"),
        (ModuleNotFoundError("no pyarrow", name="pyarrow.parquet"), 2, "pip install 'ialp[offline]'"),
    ],
    ids=["disk full", "permission", "package"],
)
def test_what_the_system_refuses(
    error: Exception, code: int, told: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("offline.datasets_command.save_dataset", refuse)
    (tmp_path / "items.jsonl").write_text('{"id": 1, "text": "a"}\n')
    arguments = ("--source", "catalogue", "--items", tmp_path / "items.jsonl", "--out", tmp_path / "out")
    ended, out, err = run("offline", "datasets", *arguments)
    assert (ended, out) == (code, "") and err.startswith("error: ") and told in err and err.count("\n") == 1


def test_the_extras_that_are_named_exist() -> None:
    assert set(exits._EXTRAS.values()) <= set(metadata("ialp").get_all("Provides-Extra") or [])


def test_a_defect_of_ours_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AttributeError("ours")

    monkeypatch.setattr("simulator.load.command.read_dataset", broken)
    with pytest.raises(AttributeError):
        run("simulator", "users", "--dataset", "x", "--out", "y")


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------
