import ssl
import subprocess
import sys

import pytest

from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import ConfigError
from tests.support.certificates import Authority, encrypt_key

PASSWORD = "key-secret"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    client, other = authority.issue("client"), authority.issue("other")
    encrypted = encrypt_key(client.key, PASSWORD, folder / "encrypted.key")
    password, wrong, empty = folder / "password", folder / "wrong", folder / "empty"
    password.write_text(PASSWORD + "\n")
    wrong.write_text("another\n")
    empty.write_text("")
    binary = folder / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    return {
        "ca": authority.cert, "cert": client.cert, "key": client.key, "other": other.key, "encrypted": encrypted,
        "password": password, "wrong": wrong, "empty": empty, "binary": binary, "missing": folder / "missing",
        "text": password,
    }  # fmt: skip


def context(files, key, password=None, *, ca="ca", cert="cert") -> ssl.SSLContext:
    settings = KafkaSettings(
        security="ssl", ca_file=files[ca], cert_file=files[cert], key_file=files[key],
        key_password_file=None if password is None else files[password],
    )  # fmt: skip
    made = settings.tls_context()
    assert made is not None
    return made


@pytest.mark.parametrize(("key", "password"), [("key", None), ("key", "password"), ("encrypted", "password")])
def test_keys_that_fit_are_loaded(files, key, password):
    assert context(files, key, password).check_hostname


@pytest.mark.parametrize(
    ("key", "password", "said"),
    [
        ("encrypted", None, "is encrypted: set kafka.key_password_file"),
        ("encrypted", "wrong", "cannot be opened with the password in kafka.key_password_file"),
        ("encrypted", "empty", "the first line is empty"),
        ("encrypted", "binary", "not text in UTF-8"),
        ("encrypted", "missing", "No such file"),
        ("other", None, "the key is not that of the certificate"),
        ("missing", None, "No such file"),
        ("text", None, "cannot be used"),
    ],
)
def test_case_a17_a_key_that_cannot_be_used_is_one_sentence(files, key, password, said):
    with pytest.raises(ConfigError, match=said) as caught:
        context(files, key, password)
    sentence = str(caught.value)
    assert "\n" not in sentence and PASSWORD not in sentence and "another" not in sentence
    assert (
        str(files[password if said.startswith(("the first", "not text")) or password == "missing" else key])
        in sentence
    )


@pytest.mark.parametrize("ca", ["missing", "text"])
def test_an_authority_that_cannot_be_read_is_named(files, ca):
    with pytest.raises(ConfigError, match=f"kafka.ca_file = {files[ca]} cannot be used"):
        context(files, "key", ca=ca)


def test_case_a17_an_encrypted_key_never_prompts_on_the_terminal(files):
    done = subprocess.run(
        [
            sys.executable, "-m", "ecdctr", "topics", "--set", "kafka.security=ssl",
            "--set", f"kafka.cert_file={files['cert']}", "--set", f"kafka.key_file={files['encrypted']}",
        ],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is encrypted: set kafka.key_password_file" in done.stderr
    assert "PEM pass phrase" not in done.stdout + done.stderr and "Traceback" not in done.stderr
