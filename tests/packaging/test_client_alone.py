"""`pip install ialp` in an empty virtual environment gives the client, and programs that say which extra they need."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
USE = """
import importlib.util, sys
from service.client import Client, ServiceError

missing = [name for name in ("torch", "numpy", "fastapi", "redis") if importlib.util.find_spec(name) is None]
with Client(sys.argv[1]) as client:
    answer = client.recommend(user_id="ann", k=1)
    try:
        client.recommend(user_id="ann", k=1)
    except ServiceError as error:
        print(",".join(missing), answer.items[0].item_id, error.code)
"""
SLATE = {
    "recommendation_id": "r1",
    "policy_version": 1,
    "arm": "adaptive",
    "items": [{"item_id": "dune", "slot": 0, "score": 0.5, "propensity": 0.5, "source": "learned"}],
    "warnings": [],
}
REFUSAL = {"type": "about:blank", "title": "Unprocessable", "status": 422, "detail": "no", "code": "invalid"}


class Answers(BaseHTTPRequestHandler):
    """A slate first, then a refusal."""

    left: ClassVar = [(200, SLATE), (422, REFUSAL)]

    def do_POST(self) -> None:
        """Answer whatever is asked."""
        status, body = self.left.pop(0)
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json" if status == 200 else "application/problem+json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has our package without any extra."""
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "--disable-pip-version-check", str(ROOT)], check=True, cwd=folder)
    return folder / "bin"


@pytest.mark.timeout(600)
def test_the_client_works_without_the_service(folder: Path, url: str, tmp_path: Path) -> None:
    done = subprocess.run([folder / "python", "-c", USE, url], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["torch,numpy,fastapi,redis", "dune", "invalid"], done.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", ["service", "offline", "simulator"])
def test_a_program_without_its_extra_names_it(folder: Path, program: str, tmp_path: Path) -> None:
    done = subprocess.run([folder / f"ialp-{program}", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: the package ") and f"pip install 'ialp[{program}]'" in done.stderr
