"""docker-compose.yml without an engine: its schema, and that what it passes is configuration we have."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecdctr.settings import ENV_PREFIX, load_settings
from ecdctr.state.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"


def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def our_environments() -> dict[str, dict[str, str]]:
    return {
        name: {k: v for k, v in service.get("environment", {}).items() if k.startswith(ENV_PREFIX)}
        for name, service in compose()["services"].items()
        if any(k.startswith(ENV_PREFIX) for k in service.get("environment", {}))
    }


def test_it_keeps_to_the_compose_specification():
    tool = Path(sys.executable).with_name("check-jsonschema")
    command = str(tool) if tool.exists() else shutil.which("check-jsonschema")
    assert command, "check-jsonschema is part of the dev extra"
    done = subprocess.run(
        [command, "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", ["topics", "worker", "worker-gpu"])
def test_every_variable_is_a_key_of_the_configuration(service):
    environment = our_environments()[service]
    settings = load_settings(environ=environment).settings
    assert settings.kafka.brokers == ("kafka:9092",)
    assert settings.topics.partitions == 4
    assert settings.state.folder == Path("/state")
    assert settings.model.device == ("cuda" if service == "worker-gpu" else "auto")


def test_a_variable_that_is_misspelt_would_be_noticed():
    environment = our_environments()["worker"] | {"ECDCTR_TOPICS__PARTITONS": "4"}
    with pytest.raises(ConfigError, match=r"topics\.partitons"):
        load_settings(environ=environment)


def test_ports_are_published_on_loopback_only():
    for name, service in compose()["services"].items():
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), f"{name} publishes {port} to the world"


def test_images_are_pinned_and_commands_exist():
    from typer.main import get_command

    from ecdctr.cli import app

    known = set(get_command(app).commands)
    for service in compose()["services"].values():
        assert ":" in service["image"] and not service["image"].endswith(":latest")
        if service["image"].startswith("ecdctr"):
            assert service["command"][0] in known


def test_case_s16_nobody_can_log_in_to_grafana_and_visitors_only_read():
    environment = compose()["services"]["grafana"]["environment"]
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert not [name for name in environment if "PASSWORD" in name]


def test_case_s16_services_have_no_more_rights_than_they_need():
    for name, service in compose()["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service and "cap_add" not in service, name
        # Apache Kafka's image writes its configuration at start.
        assert service.get("read_only", False) is (name != "kafka"), name


def test_case_s15_a_worker_answers_to_the_names_by_which_prometheus_asks():
    targets = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"][0][
        "static_configs"
    ][0]["targets"]
    for environment in (our_environments()["worker"], our_environments()["worker-gpu"]):
        allowed = load_settings(environ=environment).settings.monitor.allowed_hosts
        assert {target.rpartition(":")[0] for target in targets} <= set(allowed)


def test_prometheus_scrapes_the_port_that_the_workers_serve():
    targets = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"][0][
        "static_configs"
    ][0]["targets"]
    port = our_environments()["worker"]["ECDCTR_MONITOR__PORT"]
    assert set(targets) == {f"worker:{port}", f"worker-gpu:{port}"}
