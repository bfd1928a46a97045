import pytest
from pydantic import ValidationError

from ecdctr.events.settings import KafkaSettings
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
