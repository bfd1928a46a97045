import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from ecdctr.events.kafka import Cause, probe_brokers
from ecdctr.events.settings import KafkaSettings
from ecdctr.events.tokens import TokenSource, function_named
from ecdctr.state.errors import ConfigError, TokenError
from ecdctr.streams.embedded import free_port
from tests.support import unsigned_tokens

TOKENS = {"security": "sasl_plaintext", "mechanism": "OAUTHBEARER"}


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class TestTokenSource:
    def test_a_token_is_kept_for_most_of_its_lifetime_and_then_renewed(self):
        clock, made = Clock(), []

        def fetch():
            made.append(f"t{len(made)}")
            return made[-1], clock.now + 100

        source = TokenSource(fetch, "name", now=clock)
        assert [source.token(), source.token()] == ["t0", "t0"]
        clock.now += 79
        assert source.token() == "t0"
        clock.now += 2
        assert source.token() == "t1"

    def test_a_token_that_cannot_be_renewed_is_used_until_it_expires(self):
        clock, answers = Clock(), []
        source = TokenSource(lambda: answers.pop(), "name", now=clock)
        answers.append(("first", clock.now + 100))
        assert source.token() == "first"
        clock.now += 90
        assert source.token() == "first"
        clock.now += 11
        with pytest.raises(TokenError, match="name gives no token"):
            source.token()

    def test_the_expiry_of_a_json_web_token_is_read_from_it(self):
        made = []

        def fetch():
            made.append(1)
            return unsigned_tokens.unsigned()

        source = TokenSource(fetch, "name")
        assert source.token() == source.token() and len(made) == 1

    def test_a_token_of_unknown_expiry_is_never_kept(self):
        made = []
        source = TokenSource(lambda: made.append(1) or "opaque", "name")
        source.token()
        source.token()
        assert len(made) == 2

    def test_milliseconds_are_recognised(self):
        clock, made = Clock(), []
        source = TokenSource(lambda: made.append(1) or ("t", 1000 * (clock.now + 100)), "name", now=clock)
        source.token()
        clock.now += 81
        source.token()
        assert len(made) == 2

    @pytest.mark.parametrize(
        ("returned", "said"),
        [
            ("", "an empty text"),
            ("to\x01ken", "letters that no token has"),
            (b"bytes", "returned bytes"),
            (None, "returned NoneType"),
            (("t", "soon"), "returned tuple"),
            (("t", 1.0), "expired .* ago"),
        ],
    )
    def test_what_is_not_a_token_is_named_without_its_content(self, returned, said):
        with pytest.raises(TokenError, match=said) as caught:
            TokenSource(lambda: returned, "kafka.token_provider = 'a:b'").token()
        assert "kafka.token_provider = 'a:b'" in str(caught.value)
        assert "ken" not in str(caught.value).replace("token", "")

    def test_threads_share_one_request(self):
        made, gate = [], threading.Event()

        def fetch():
            gate.wait(5)
            made.append(1)
            return "t", time.time() + 100

        source = TokenSource(fetch, "name")
        threads = [threading.Thread(target=source.token) for _ in range(4)]
        for thread in threads:
            thread.start()
        gate.set()
        for thread in threads:
            thread.join()
        assert len(made) == 1


class TestNamedFunctions:
    def test_both_clients_get_its_tokens(self):
        settings = KafkaSettings(**TOKENS, token_provider=unsigned_tokens.FUNCTION, oauth_extensions=["a=b"])
        python, aio = settings.kafka_python(), settings.aiokafka()
        assert python["sasl_mechanism"] == aio["sasl_mechanism"] == "OAUTHBEARER"
        assert python["sasl_oauth_token_provider"].token().count(".") == 2
        assert aio["sasl_oauth_token_provider"].extensions() == {"a": "b"}
        assert "sasl_plain_username" not in python

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("no.such.module:token", "cannot be imported .*PYTHONPATH"),
            ("tests.support.unsigned_tokens:no_such", "has no function no_such"),
            ("tests.support.unsigned_tokens:SUBJECT", "has no function SUBJECT"),
        ],
    )
    def test_one_that_does_not_exist_is_named(self, name, said):
        with pytest.raises(ConfigError, match=said):
            function_named(name, "kafka.token_provider")
        with pytest.raises(ConfigError, match=said):
            KafkaSettings(**TOKENS, token_provider=name).kafka_python()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (TOKENS, "needs token_provider, or oauth_token_url"),
        ({**TOKENS, "token_provider": "a:b", "oauth_token_url": "https://x/"}, "not both"),
        ({**TOKENS, "token_provider": "no-colon"}, "token_provider"),
        ({**TOKENS, "oauth_token_url": "https://x/"}, "oauth_client_id"),
        ({**TOKENS, "oauth_token_url": "https://x/", "oauth_client_id": "me"}, "oauth_client_secret_file"),
        ({**TOKENS, "oauth_token_url": "x"}, "https://"),
        ({**TOKENS, "oauth_token_url": "https://me:pw@x/"}, "oauth_client_id"),
        ({**TOKENS, "token_provider": "a:b", "oauth_extensions": ["x"]}, "name=value"),
        ({"token_provider": "a:b"}, 'only with mechanism "OAUTHBEARER"'),
        ({"oauth_client_secret": "x", "oauth_client_secret_file": "y"}, "not both"),
        ({"key_password_file": "x"}, "cert_file"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        KafkaSettings(**fields)


class Endpoint:
    """A token endpoint on loopback, which answers what a test sets."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, list[str]]]] = []
        self.status, self.headers = 200, {}
        self.body: object = {"access_token": "abc", "expires_in": 100}
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                endpoint.requests.append((self.headers["Authorization"], parse_qs(body)))
                data = json.dumps(endpoint.body).encode()
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Endpoint()
    yield made
    made.close()


class TestClientCredentials:
    def settings(self, endpoint, tmp_path, **changes) -> KafkaSettings:
        secret = tmp_path / "secret"  # a path of this test: sources are shared by equal settings
        secret.write_text("s3cr%t\n")
        fields = {
            "oauth_token_url": endpoint.url,
            "oauth_client_id": "me",
            "oauth_client_secret_file": secret,
        }
        return KafkaSettings(**{**TOKENS, **fields, **changes})

    def test_the_request_is_that_of_rfc_6749(self, endpoint, tmp_path):
        settings = self.settings(endpoint, tmp_path, oauth_scope="kafka read")
        assert settings.token_source().token() == "abc"
        assert settings.kafka_python()["sasl_oauth_token_provider"].token() == "abc"
        [(authorization, fields)] = endpoint.requests  # kept until it expires, over all clients
        kind, _, login = authorization.partition(" ")
        assert kind == "Basic" and base64.b64decode(login) == b"me:s3cr%25t"
        assert fields == {"grant_type": ["client_credentials"], "scope": ["kafka read"]}

    @pytest.mark.parametrize(("status", "cause"), [(401, Cause.TOKEN_REFUSED), (503, Cause.TOKEN)])
    def test_a_refusal_is_named_by_the_probe(self, endpoint, tmp_path, status, cause):
        endpoint.status = status
        endpoint.body = {"error": "invalid_client", "error_description": "wrong secret"}
        settings = self.settings(endpoint, tmp_path, brokers=f"127.0.0.1:{free_port()}")
        found = probe_brokers(settings)
        assert found is not None and found.cause is cause
        assert found.may_pass is (status == 503)
        assert "invalid_client: wrong secret" in str(found) and "'me'" in str(found)
        assert "s3cr" not in str(found) and "\n" not in str(found)

    @pytest.mark.parametrize("body", [{}, [], "text", {"access_token": "abc", "expires_in": "soon"}])
    def test_an_answer_without_a_token_is_named(self, endpoint, tmp_path, body):
        endpoint.body = body
        with pytest.raises(TokenError, match="does not answer with a token"):
            self.settings(endpoint, tmp_path).token_source().token()

    def test_the_secret_does_not_follow_a_redirect(self, endpoint, tmp_path):
        endpoint.status, endpoint.headers = 307, {"Location": endpoint.url}
        with pytest.raises(TokenError, match="answers 307"):
            self.settings(endpoint, tmp_path).token_source().token()
        assert len(endpoint.requests) == 1

    def test_an_endpoint_that_cannot_be_reached_may_come_back(self, endpoint, tmp_path):
        settings = self.settings(endpoint, tmp_path, oauth_token_url=f"http://127.0.0.1:{free_port()}/")
        found = probe_brokers(settings)
        assert found is not None and found.cause is Cause.TOKEN and found.may_pass
        assert "cannot be reached" in str(found)

    def test_secrets_are_never_shown(self, endpoint, tmp_path):
        settings = self.settings(
            endpoint, tmp_path, oauth_client_secret="s3cret", oauth_client_secret_file=None
        )
        shown = f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
        assert "s3cret" not in shown
        assert settings.token_source().token() == "abc"
