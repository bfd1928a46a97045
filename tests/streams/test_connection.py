import pytest
from pydantic import ValidationError

from ecdctr.events.settings import KafkaSettings
from ecdctr.settings import load_settings
from ecdctr.state.errors import ConfigError
from ecdctr.streams.settings import TopicSettings


def test_plain_connections_name_the_brokers():
    settings = KafkaSettings(brokers="a:1, b:2")
    assert settings.kafka_python() == {"bootstrap_servers": ["a:1", "b:2"], "security_protocol": "PLAINTEXT"}


def test_sasl_over_tls(tmp_path):
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    settings = KafkaSettings(security="sasl_ssl", username="me", password_file=file)
    found = settings.aiokafka()
    assert found["security_protocol"] == "SASL_SSL"
    assert (found["sasl_mechanism"], found["sasl_plain_username"]) == ("SCRAM-SHA-512", "me")
    assert found["sasl_plain_password"] == "s3cret"
    assert found["ssl_context"].check_hostname


def test_a_password_is_never_printed():
    settings = KafkaSettings(security="sasl_plaintext", username="me", password="s3cret")
    assert "s3cret" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.kafka_python()["sasl_plain_password"] == "s3cret"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"brokers": "nowhere"}, "host:port"),
        ({"brokers": []}, "at least one"),
        ({"brokers": "a:99999"}, "host:port"),
        ({"security": "sasl_ssl", "username": "me"}, "password"),
        ({"security": "sasl_ssl", "password": "x"}, "username"),
        ({"password": "x", "password_file": "y"}, "not both"),
        ({"key_file": "k"}, "cert_file"),
        ({"security": "tls"}, "plaintext"),
        ({"broker": "a:1"}, "broker"),
    ],
)
def test_a_bad_value_is_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        KafkaSettings(**fields)


def test_files_that_are_not_there_are_named(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(ConfigError, match="missing"):
        KafkaSettings(security="sasl_plaintext", username="me", password_file=missing).kafka_python()
    with pytest.raises(ConfigError, match="missing"):
        KafkaSettings(security="ssl", ca_file=missing).kafka_python()


def test_two_streams_need_two_topics():
    with pytest.raises(ValidationError, match="same topic"):
        TopicSettings(natural="clicks", ad="clicks")


LONG = "x" * 246  # with ".dlq" 250 letters


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"natural": LONG}, "dead-letter topic of natural .* has 250 letters.*249 at most: shorten"),
        ({"ad": "a" * 250}, "ad has 250 letters"),
        ({"ad": "ad clicks"}, "ad = 'ad clicks' is not a name of a topic: use letters"),
        ({"natural": ".."}, r"natural = '\.\.' is not a name"),
        ({"dead_letter_suffix": "/dlq"}, "dead-letter topic of natural .*is not a name"),
        (
            {"natural": "n", "ad": "n.dlq"},
            "topics.ad and the dead-letter topic of topics.natural are the same topic 'n.dlq': rename",
        ),
        ({"natural": "a.b", "ad": "a_b"}, "differ only in"),
    ],
)
def test_case_a20_topics_that_kafka_refuses_or_that_collide_are_named(fields, said):
    with pytest.raises(ValidationError, match=said):
        TopicSettings(**fields)


@pytest.mark.parametrize("alerts", ["n", "a.dlq", "n_dlq"])
def test_case_a20_alerts_have_a_topic_of_their_own(alerts):
    overrides = ["topics.natural=n", "topics.ad=a", f"monitor.alerts_topic={alerts}"]
    with pytest.raises(ConfigError, match=r"monitor\.alerts_topic") as caught:
        load_settings(None, overrides, environ={})
    assert alerts in str(caught.value) and "rename one" in str(caught.value)


def test_case_a20_the_longest_names_are_accepted():
    settings = TopicSettings(natural="x" * 245, ad="y" * 245)
    assert all(len(settings.dead_letter(name)) == 249 for name in settings.domains)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("worker.fetch_bytes", 2**31),
        ("worker.poll_records", 0),
        ("worker.poll_records", 10**9),
        ("topics.partitions", 2**31),
        ("topics.replication", 0),
        ("topics.replication", 2**15),
        ("monitor.port", 70_000),
        ("monitor.alerts_topic", "alerts!"),
    ],
)
def test_case_a23_a_value_out_of_range_is_named_with_its_key(key, value):
    with pytest.raises(ConfigError) as caught:
        load_settings(None, [f"{key}={value}"], environ={})
    assert str(caught.value).startswith(f"{key} = {value!r} (from --set): ")
    assert "\n" not in str(caught.value)
