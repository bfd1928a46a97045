"""Commands around Kafka: ``demo``, ``broker``, ``produce``, ``worker``, ``topics`` and ``tpm train``."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from ecdctr.cli.options import ConfigOption, SetOption, SourceArgument, err, load, out

__all__ = ["broker", "demo", "produce", "topics", "tpm_train", "worker"]


def demo(
    out_dir: Annotated[
        Path, typer.Option("--out", help="Write the summary, the report and the state to this folder.")
    ] = Path("demo-out"),
    data: Annotated[
        Path | None, typer.Option(help="Use the EB-NeRD data in this folder instead of the simulator.")
    ] = None,
    mapping: Annotated[
        str,
        typer.Option(
            help="Which rows of EB-NeRD count as ads: A takes premium articles, B takes in-article slots."
        ),
    ] = "A",
    seed: Annotated[int, typer.Option(help="Seed of the simulator and of the models.")] = 0,
    brokers: Annotated[
        str | None,
        typer.Option(
            help="Use the Kafka at these addresses (host:port, with commas) instead of the embedded broker. The demo creates "
            "its own topics there, and deletes them at the end."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            help="With --brokers: a key of the section kafka, topics.replication or topics.partitions, for example "
            "`--set kafka.security=ssl`. May be repeated.",
        ),
    ] = None,
    topic_prefix: Annotated[
        str | None,
        typer.Option(
            help="With --brokers: how the names of the topics and of the group begin. Default: a random text."
        ),
    ] = None,
    keep_topics: Annotated[
        bool, typer.Option("--keep-topics", help="With --brokers: do not delete the topics at the end.")
    ] = False,
) -> None:
    """Show the whole system in three minutes: broker, streams, training, kill -9, recovery, replay and one table."""
    from ecdctr.commands.demo import run_demo

    raise typer.Exit(
        run_demo(
            out,
            out_dir,
            data=data,
            mapping=mapping,
            seed=seed,
            brokers=brokers,
            overrides=overrides or (),
            prefix=topic_prefix,
            keep_topics=keep_topics,
        )
    )


def broker(
    port: Annotated[int, typer.Option(help="Listen on this port of the loopback interface.")] = 9092,
    old_clients: Annotated[
        bool,
        typer.Option(
            "--old-clients",
            help="Also support clients based on librdkafka 2.0, such as Debian's kcat. This is slower.",
        ),
    ] = False,
) -> None:
    """Run the embedded broker. It is for development only: it stores all records in memory."""
    from ecdctr.streams.embedded import EmbeddedBroker

    # A handler and not sigwait: without one SIGTERM ends this process at once, and the broker's own process stays.
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    with EmbeddedBroker(port=port, old_clients=old_clients) as running:
        out.print(f"Kafka protocol on {running.address}; Ctrl-C stops the broker and discards all records")
        stop.wait()


def produce(
    source: SourceArgument,
    config: ConfigOption = None,
    overrides: SetOption = None,
    packed: Annotated[
        int,
        typer.Option(
            help="Pack this many rows into one Arrow message. 0 sends one JSON object a message.", min=0
        ),
    ] = 0,
    rate: Annotated[
        float, typer.Option(help="Send at most this many rows a second. 0 sets no limit.", min=0)
    ] = 0,
) -> None:
    """Send the events of a source to the two click topics, keyed by user and in event order."""
    from ecdctr.commands.produce import produce_source

    produce_source(out, err, load(config, overrides), source, packed=packed, rate=rate)


def worker(
    config: ConfigOption = None,
    overrides: SetOption = None,
    standby: Annotated[
        bool,
        typer.Option(
            "--standby", help="Wait until the lock on the state folder is free, then take over the training."
        ),
    ] = False,
    reset_offsets: Annotated[
        str | None,
        typer.Option(
            help="Where to continue when the log no longer holds the offsets that the checkpoint needs: earliest, "
            "latest or checkpoint."
        ),
    ] = None,
) -> None:
    """Train continuously from Kafka.

    On SIGTERM or Ctrl-C the worker writes a checkpoint and exits with code 0.
    """
    from ecdctr.interrupt import exit_on_sigterm

    exit_on_sigterm()  # the imports take seconds
    from ecdctr import factory

    settings = load(config, overrides).settings
    raise typer.Exit(factory.worker(settings).run(standby=standby, reset_offsets=reset_offsets))


def tpm_train(
    source: SourceArgument,
    config: ConfigOption = None,
    overrides: SetOption = None,
    until: Annotated[str | None, typer.Option(help="Use only rows before this UTC date.")] = None,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Close the last month even if the source ends before its last day."),
    ] = False,
) -> None:
    """Train TPM month by month on a source's natural clicks, and write one frozen snapshot a month.

    The source may also be `kafka`, which reads both click topics, or a part of them, for example
    `kafka:offsets=natural-clicks/0:0-90000`. A worker with `tpm.live` resumes from here and closes later months itself.
    """
    from ecdctr.commands.tpm_train import train_tpm

    train_tpm(out, err, load(config, overrides), source, until=until, partial=partial)


def topics(
    config: ConfigOption = None,
    overrides: SetOption = None,
    create: Annotated[bool, typer.Option("--create", help="Create the topics that are missing.")] = False,
) -> None:
    """Show the click topics and the dead-letter topics: partitions, offsets and lag."""
    from ecdctr.commands.topics import show_topics

    show_topics(out, load(config, overrides), create=create)
