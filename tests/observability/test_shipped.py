"""Dashboard and alerts ask for what the service tells; `make observability-test` loads them in a real Prometheus."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from service.api.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "service" / "observability"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
ALERTS = [rule for group in yaml.safe_load((SHIPPED / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD: dict[str, Any] = json.loads((SHIPPED / "grafana/dashboards/ialp.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGET = {"job", "instance"}  # labels that Prometheus gives
VARIABLES = {  # that Grafana fills in
    "$__rate_interval": "1m",
    "$instance": ".*",
}
EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in ALERTS},
    **{f"{p['title']} {t['refId']}": t["expr"] for p in PANELS for t in p["targets"]},
    **{a["name"]: a["expr"] for a in DASHBOARD["annotations"]["list"]},
}


def metrics_told() -> dict[str, set[str]]:
    """Names of samples with their labels, as the registry has them, whether or not they have a value yet."""
    told: dict[str, set[str]] = {"up": set()}
    metrics = Metrics()
    for collector, names in (metrics.registry._collector_to_names | metrics.of_worker._collector_to_names).items():
        labels = set(collector._labelnames)  # type: ignore[attr-defined]
        told |= {name: labels | ({"le"} if name.endswith("_bucket") else set()) for name in names}
    return told


TOLD = metrics_told()


def parts(node: Any) -> Iterator[Any]:
    """An expression and all that it is made of."""
    yield node
    for name in ("lhs", "rhs", "expr", "args", "vector_selector", "param"):
        child = getattr(node, name, None)
        for part in child if isinstance(child, list) else [child]:
            if part is not None:
                yield from parts(part)


def selectors(expression: Any) -> list[Any]:
    return [part for part in parts(expression) if isinstance(part, promql_parser.VectorSelector)]


def grouped_by(expression: Any) -> set[str]:
    aggregates = [part for part in parts(expression) if isinstance(part, promql_parser.AggregateExpr)]
    return {label for part in aggregates if part.modifier is not None for label in part.modifier.labels}


@pytest.mark.parametrize("name", list(EXPRESSIONS))
def test_it_asks_for_what_is_told(name: str) -> None:
    expression = EXPRESSIONS[name]
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    parsed = promql_parser.parse(expression)
    found = selectors(parsed)
    assert found
    for selector in found:
        assert selector.name in TOLD, selector.name
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= TOLD[selector.name] | TARGET, selector.prettify()
    assert grouped_by(parsed) <= set().union(*(TOLD[s.name] for s in found)) | TARGET


def test_a_name_that_nobody_tells_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPRESSIONS, "wrong", "rate(ialp_rewards_total[5m])")
    with pytest.raises(AssertionError, match="ialp_rewards_total"):
        test_it_asks_for_what_is_told("wrong")


def test_every_metric_of_ours_is_looked_at() -> None:
    """One that is neither on the dashboard nor in an alert is of no use to anybody."""
    asked = " ".join(EXPRESSIONS.values())
    ours = {name for name in TOLD if name.startswith("ialp_") and not name.endswith(("_created", "_bucket"))}
    families = {name for name in ours if f"{name}_total" not in ours}
    assert {name for name in families if name not in asked} == set()


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "warn"}
    assert rule["annotations"]["summary"] and rule["annotations"]["action"].endswith((".", "?"))
    assert f"`{rule['alert']}`" in (ROOT / "docs" / "observability.md").read_text()


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["title"] and panel["description"] for panel in PANELS)
    width = 24 * (1 + max(y for _, y in taken))
    assert len(taken) == width, "no holes"


def test_files_are_where_compose_mounts_them_and_they_name_each_other() -> None:
    for service in ("prometheus", "grafana"):
        for volume in COMPOSE[service]["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), source
    sources = yaml.safe_load((SHIPPED / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    used = {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]}
    assert used == {source["uid"] for source in sources}
    (provider,) = yaml.safe_load((SHIPPED / "grafana/provisioning/dashboards/ialp.yml").read_text())["providers"]
    assert any(v.endswith(f":{provider['options']['path']}:ro") for v in COMPOSE["grafana"]["volumes"])
    (job,) = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())["scrape_configs"]
    assert job["job_name"] == "ialp" and job["static_configs"] == [{"targets": ["api:8000"]}]
    made = next(part.partition("=")[2] for part in COMPOSE["metrics-key"]["command"] if part.startswith("--out="))
    assert job["authorization"]["credentials_file"] == made
