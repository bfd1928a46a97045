import socket

from ecdctr.streams.embedded import free_port, ports


def test_a_free_port_can_be_bound_and_is_below_those_of_outgoing_connections():
    port = free_port()
    assert port < ports._first_outgoing()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))


def test_without_the_kernels_range_linux_default_counts(monkeypatch, tmp_path):
    for text in (None, "", "many", "1024\t65535\n"):
        file = tmp_path / "range"
        if text is not None:
            file.write_text(text)
        monkeypatch.setattr(ports, "_RANGE_FILE", file)
        assert ports._first_outgoing() == 32_768
    file.write_text("40000\t60999\n")
    assert ports._first_outgoing() == 40_000


def test_when_every_try_is_taken_the_kernel_chooses(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]
        monkeypatch.setattr(ports._random, "sample", lambda among, count: [number])
        assert free_port() != number
