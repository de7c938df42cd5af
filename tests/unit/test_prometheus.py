"""What is shipped for Prometheus and Grafana: it asks only for what the daemon tells, and it does what it should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from spark_modeld.control.exposition import render
from spark_modeld.counting import Counting
from spark_modeld.face import Snapshot
from spark_modeld.gateway.tally import Tally
from spark_modeld.metrics import Metrics

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "packaging/prometheus/spark-modeld.rules.yml"
SCRAPE = ROOT / "packaging/prometheus/prometheus.yml"
DASHBOARD = ROOT / "packaging/grafana/spark-modeld.json"
ALERTS = Path(__file__).with_name("alerts.yml")
PROMTOOL = ROOT / "build/promtool/promtool"
"""Debian's; packaging/build unpacks it there, because its package would start a server."""

PROMISED = {
    "spark_modeld_switches_total": {"outcome", "requested_by"},
    "spark_modeld_switch_phase_seconds": {"phase"},
    "spark_modeld_slot_info": {"model", "phase"},
    "spark_modeld_model_starts_total": {"model", "result"},
    "spark_modeld_model_stops_total": {"model", "reason"},
    "spark_modeld_memory_bytes": {"kind"},
    "spark_modeld_gateway_requests_total": {"model", "code"},
    "spark_modeld_gateway_first_byte_seconds": {"model"},
    "spark_modeld_in_flight": {"model"},
    "spark_modeld_waiting": {"model"},
}
"""What dashboards and rules of others rely on."""
_NAME = re.compile(r"\bspark_modeld_[a-z_]+")
_SELECTOR = re.compile(r"\b(spark_modeld_[a-z_]+)\{([^}]*)\}")
_OF_HISTOGRAM = re.compile(r"_(?:bucket|sum|count)$")
_SCRAPED = {"job", "instance"}


def everything() -> Metrics:
    """All that the daemon counts."""
    metrics = Metrics()
    Counting(metrics, Snapshot)
    Tally(metrics, lambda: 0)
    return metrics


def labels_of() -> dict[str, set[str]]:
    """The labels of each metric, under the names that a query may use."""
    metrics = everything()
    labels = {metric.name: set(metric.labels) for metric in (*metrics.counters, *metrics.gauges)}
    for metric in metrics.histograms:
        labels[f"{metric.name}_bucket"] = {*metric.labels, "le"}
        labels[f"{metric.name}_sum"] = labels[f"{metric.name}_count"] = set(metric.labels)
    return {**labels, "spark_modeld_build_info": {"version"}}


def exposed() -> set[str]:
    """The metrics in the text that the daemon answers, as Prometheus' own parser names them."""
    text = render(everything(), "1.2").decode()
    families = list(text_string_to_metric_families(text))
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def expressions(node: Any) -> Iterator[str]:
    """Every query of the dashboard, its variables and its annotations included."""
    match node:
        case dict():
            yield from (value for key, value in node.items() if key in {"expr", "query"} and isinstance(value, str))
            for value in node.values():
                yield from expressions(value)
        case list():
            for value in node:
                yield from expressions(value)


def wrong(text: str) -> set[str]:
    """What a query asks for that there is not: metrics, or labels of metrics."""
    known = labels_of()
    found = {name for name in _NAME.findall(text) if name not in known}
    for name, selector in _SELECTOR.findall(text):
        asked = set(re.findall(r"([a-z_]+)\s*(?:=~|!=|!~|=)", selector))
        found |= {f"{name}: {label}" for label in asked - known.get(name, set()) - _SCRAPED}
    return found


def test_all_that_was_promised_is_told() -> None:
    metrics = everything()
    told = {m.name: set(m.labels) for m in (*metrics.counters, *metrics.histograms, *metrics.gauges)}
    assert {name: told.get(name) for name in PROMISED} == PROMISED
    assert exposed() == {*told, "spark_modeld_build_info"}


def test_the_rules_ask_only_for_what_is_told() -> None:
    text = RULES.read_text()
    assert wrong(text) == set()
    assert len(set(_NAME.findall(text))) >= 8


def test_the_dashboard_asks_only_for_what_is_told_and_shows_all_of_it() -> None:
    queries = list(expressions(dashboard()))
    assert wrong("\n".join(queries)) == set()
    shown = {_OF_HISTOGRAM.sub("", name) for query in queries for name in _NAME.findall(query)}
    assert shown == exposed()


@pytest.mark.parametrize(
    "text", ["spark_modeld_typo", 'spark_modeld_waiting{modle="a"}', "spark_modeld_switch_phase_seconds"]
)
def test_a_query_for_what_there_is_not_is_found(text: str) -> None:
    assert wrong(text) != set()


def test_the_dashboard_has_its_panels_side_by_side() -> None:
    places = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & places, panel["title"]
        assert panel["type"] == "row" or panel["description"]
        places |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))


def promtool(*arguments: str, cwd: Path | None = None) -> None:
    """Runs it; its words are in the error if it finds something."""
    if not PROMTOOL.exists():
        pytest.skip("needs promtool: make build")
    done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    for source in (RULES, ALERTS):
        shutil.copy(source, tmp_path)
    promtool("test", "rules", ALERTS.name, cwd=tmp_path)


def test_each_alert_is_tried_both_ways() -> None:
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    quiet, bad = ALERTS.read_text().split("name: a bad day")
    assert set(re.findall(r"alertname: (\w+)", quiet)) == alerts
    assert set(re.findall(r"alertname: (\w+)", bad)) == alerts
    assert bad.count("exp_alerts:") == len(alerts)


def test_prometheus_takes_the_configuration(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("smd_x_y")
    text = SCRAPE.read_text()
    assert "credentials_file: /etc/prometheus/spark-modeld.token" in text
    (tmp_path / SCRAPE.name).write_text(text.replace("/etc/prometheus/spark-modeld.token", str(token)))
    shutil.copy(RULES, tmp_path)
    promtool("check", "config", str(tmp_path / SCRAPE.name))


def test_prometheus_takes_every_query_of_the_dashboard(tmp_path: Path) -> None:
    filled = [
        query.replace("$__rate_interval", "5m").replace("$job", "spark-modeld").replace("$instance", ".*")
        for query in expressions(dashboard())
        if _NAME.search(query) and not query.startswith("label_values(")
    ]
    assert len(filled) > 15
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(filled)]
    # JSON is YAML.
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "queries.yml", cwd=tmp_path)
