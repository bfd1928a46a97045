"""Loading, checking and printing the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecdctr.settings import Settings, change, dump_toml, load_settings, settings_table
from ecdctr.state.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "ecdctr.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_settings(environ={})
    assert loaded.settings == Settings()
    assert loaded.origin == {}


def test_later_layers_win_and_the_source_of_each_value_is_recorded(tmp_path):
    path = write(tmp_path, '[model]\nlr = 0.1\ndim = 8\ncross_layers = 1\n[topics]\nad = "a"\n')
    loaded = load_settings(
        path, ["model.dim=4"], environ={"ECDCTR_MODEL__LR": "0.2", "ECDCTR_MODEL__DIM": "32"}
    )
    settings = loaded.settings
    assert (settings.model.lr, settings.model.dim, settings.model.cross_layers, settings.topics.ad) == (
        0.2,
        4,
        1,
        "a",
    )
    origins = {key: origin for key, _, origin, _ in settings_table(loaded)}
    assert origins["model.lr"] == "environment"
    assert origins["model.dim"] == "--set"
    assert origins["model.cross_layers"] == str(path)
    assert origins["model.seed"] == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[model]\nlearning_rate = 1\n",
            r"unknown key model\.learning_rate \(from .*ecdctr\.toml\); known here: .*lr",
        ),
        ("[model]\nlr = -1\n", r"model\.lr = -1 \(from .*ecdctr\.toml\): Input should be greater than 0"),
        ("[modle]\nlr = 1\n", r"unknown key modle"),
        ('[[features]]\nname = "user"\nkind = "text"\n', r"features\.0\.kind = 'text'"),
        ('[[features]]\nname = "u"\n[[features]]\nname = "u"\n', r"more than one feature has the name u"),
        ("[model\n", r"is not valid TOML"),
        ('[schedule]\nrelease_every = "soon"\n', r"schedule\.release_every = 'soon'"),
    ],
)
def test_a_wrong_key_or_value_fails_at_start_and_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(write(tmp_path, text), environ={})


def test_wrong_variables_are_named():
    with pytest.raises(ConfigError, match="ECDCTR_MODLE__LR does not begin with a configuration section"):
        load_settings(environ={"ECDCTR_MODLE__LR": "1"})
    with pytest.raises(ConfigError, match=r"unknown key model\.lrr \(from environment\)"):
        load_settings(environ={"ECDCTR_MODEL__LRR": "1"})


def test_a_file_that_is_not_there_is_an_error_not_the_defaults(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist"):
        load_settings(tmp_path / "nowhere.toml", environ={})


def test_the_dump_reads_back_to_the_same(tmp_path):
    first = load_settings(
        None,
        [
            "model.hidden=[32]",
            'topics.ad="x"',
            "state.keep_checkpoints=7",
            "monitor.watch.drift.bins=32",
            'monitor.watch.rules=[{name = "low", metric = "gauc", below = 0.6, severity = "critical"}]',
        ],
        environ={},
    ).settings
    again = load_settings(write(tmp_path, dump_toml(first)), environ={}).settings
    assert again == first


def test_a_webhook_is_never_shown(tmp_path):
    address = "https://hooks.example/services/t0ken"
    loaded = load_settings(environ={"ECDCTR_MONITOR__WEBHOOK_URL": address})
    assert loaded.settings.monitor.webhook() == address
    shown = "\n".join(f"{k} {v}" for k, v, _, _ in settings_table(loaded)) + dump_toml(loaded.settings)
    assert "t0ken" not in shown
    for wrong in ("hooks.example/t0ken", "ftp://hooks.example/t0ken"):
        with pytest.raises(ConfigError, match=r"monitor.*https://") as failure:
            load_settings(environ={"ECDCTR_MONITOR__WEBHOOK_URL": wrong})
        assert "t0ken" not in str(failure.value)


def test_a_webhook_from_a_file(tmp_path):
    file = tmp_path / "hook"
    file.write_text("https://hooks.example/t0ken\n", encoding="utf-8")
    read = load_settings(environ={"ECDCTR_MONITOR__WEBHOOK_URL_FILE": str(file)}).settings.monitor
    assert read.webhook() == "https://hooks.example/t0ken"
    file.write_text("t0ken", encoding="utf-8")
    with pytest.raises(ConfigError, match="webhook_url_file") as failure:
        read.webhook()
    assert "t0ken" not in str(failure.value)
    with pytest.raises(ConfigError, match="missing"):
        load_settings(
            environ={"ECDCTR_MONITOR__WEBHOOK_URL_FILE": str(tmp_path / "missing")}
        ).settings.monitor.webhook()


def test_a_password_is_never_shown(tmp_path):
    loaded = load_settings(environ={"ECDCTR_KAFKA__PASSWORD": "s3cret-word"})
    shown = "\n".join(f"{k} {v}" for k, v, _, _ in settings_table(loaded)) + dump_toml(loaded.settings)
    assert "s3cret-word" not in shown
    with pytest.raises(ConfigError) as failure:
        load_settings(environ={"ECDCTR_KAFKA__PASSWORD": "s3cret-word", "ECDCTR_KAFKA__SECURITY": "nonsense"})
    assert "s3cret-word" not in str(failure.value)


def test_variables_of_tests_and_studies_are_no_configuration():
    environ = {"ECDCTR_DATA": "/data", "ECDCTR_KAFKA_LIBS": "/libs"}
    assert load_settings(environ=environ).settings == load_settings(environ={}).settings


SECRET_SPELLINGS = [
    "kafka.password=swordfish",
    "kafka.password = swordfish",
    'kafka.password="swordfish',
    "kafka.password: swordfish",
    "kafka.password swordfish",
    "kafka.password swordfish=1",
    "kafka.Password=swordfish",
    "KAFKA.PASSWORD=swordfish",
    "kafka.pasword=swordfish",
    "kafka.password.value=swordfish",
    "kafka=password=swordfish",
    'kafka={password="swordfish"}',
    'kafka={"password" = "swordfish", brokers = 3}',
    "kafka.oauth_client_secret=swordfish",
    "monitor.webhook_url=https://hooks.example/swordfish",
]


@pytest.mark.parametrize("text", SECRET_SPELLINGS)
def test_case_s18_a_secret_on_the_command_line_is_refused_and_not_echoed(text):
    with pytest.raises(ConfigError) as failure:
        load_settings(overrides=[text], environ={})
    assert "swordfish" not in str(failure.value)
    with pytest.raises(ConfigError) as failure:
        change(load_settings(environ={}), [text], "--arm a")
    assert "swordfish" not in str(failure.value)


def test_case_s18_the_way_out_for_a_secret_is_named():
    with pytest.raises(ConfigError, match=r"ECDCTR_KAFKA__PASSWORD, or kafka\.password_file"):
        load_settings(overrides=["kafka.password=swordfish"], environ={})
    with pytest.raises(ConfigError, match=r"ECDCTR_MONITOR__WEBHOOK_URL, or monitor\.webhook_url_file"):
        load_settings(overrides=["monitor.webhook_url=https://hooks.example/swordfish"], environ={})


@pytest.mark.parametrize(
    "text",
    [
        "schedule.release_every=0d",
        "model.stack_every=0h",
        "tpm.month=0d",
        "monitor.watch.drift.every=0m",
        "monitor.watch.drift.reference_length=0d",
        "monitor.watch.probes.period=0d",
    ],
)
def test_case_s18_a_length_of_zero_between_repetitions_is_refused(text):
    key, _, value = text.partition("=")
    with pytest.raises(
        ConfigError, match=rf"{key} = '{value}' \(from --set\): {value} must be longer than 0"
    ):
        load_settings(overrides=[text], environ={})


@pytest.mark.parametrize("service", ["ECDCTR", "ECDCTR_KAFKA", "ECDCTR_MONITOR_2"])
def test_case_k9_what_kubernetes_injects_for_a_service_is_no_configuration(service):
    """The names and values are those that the documentation of Kubernetes lists."""
    environ = {
        f"{service}_SERVICE_HOST": "10.0.0.11",
        f"{service}_SERVICE_PORT": "6379",
        f"{service}_SERVICE_PORT_HTTP_METRICS": "6379",
        f"{service}_PORT": "tcp://10.0.0.11:6379",
        f"{service}_PORT_6379_TCP": "tcp://10.0.0.11:6379",
        f"{service}_PORT_6379_TCP_PROTO": "tcp",
        f"{service}_PORT_6379_TCP_PORT": "6379",
        f"{service}_PORT_6379_TCP_ADDR": "10.0.0.11",
        f"{service}_PORT_53_UDP": "udp://10.0.0.11:53",
    }
    loaded = load_settings(environ=environ | {"ECDCTR_MONITOR__PORT": "9999"})
    assert loaded.settings.monitor.port == 9999
    assert load_settings(environ=environ).settings == load_settings(environ={}).settings


@pytest.mark.parametrize(
    "name", ["ECDCTR_MONITOR_PORT", "ECDCTR_PORT", "ECDCTR_SERVICE", "ECDCTR_KAFKA_HOST"]
)
def test_case_k9_a_key_that_is_written_wrongly_is_still_named(name):
    with pytest.raises(ConfigError, match=f"{name} does not begin with a configuration section"):
        load_settings(environ={name: "9108"})


@pytest.mark.parametrize(
    "override", ["model.lr=inf", "worker.max_idle_s=inf", "model.hidden=[0]", "tpm.hidden=[-1]"]
)
def test_infinity_and_layers_without_width_are_refused(override):
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load_settings(None, [override], environ={})
