"""The application: its commands in the order of the help text, logging, and errors as exit codes."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer
from rich.logging import RichHandler
from rich.text import Text

from ecdctr.cli.evidence import evidence
from ecdctr.cli.inspecting import config_show, doctor, inspect_checkpoint, inspect_snapshot
from ecdctr.cli.options import err, out
from ecdctr.cli.replaying import drift, replay, report_compare
from ecdctr.cli.starting import init
from ecdctr.cli.streaming import broker, demo, produce, topics, tpm_train, worker
from ecdctr.state.errors import EcdctrError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Keep an ads CTR model fresh: train it continuously from a natural and an ad click stream, "
    "replay historical logs, and watch for drift.\n\n"
    "Start with `ecdctr demo`, or with your own log: `ecdctr init LOG`. `ecdctr config show` explains every key of the configuration.",
)
_tpm = typer.Typer(
    no_args_is_help=True, help="Train TPM, the tiny pre-training model of long-term natural clicks."
)
_config = typer.Typer(no_args_is_help=True, help="Show the configuration.")
_inspect = typer.Typer(no_args_is_help=True, help="Verify and show what is saved on disk.")
_report = typer.Typer(no_args_is_help=True, help="Work with the reports of replays.")
for _name, _group in (("tpm", _tpm), ("config", _config), ("inspect", _inspect), ("report", _report)):
    app.add_typer(_group, name=_name)
for _command in (demo, init, broker, produce, doctor, worker, replay, drift, topics, evidence):
    app.command()(_command)
_tpm.command("train")(tpm_train)
_report.command("compare")(report_compare)
_inspect.command("checkpoint")(inspect_checkpoint)
_inspect.command("snapshot")(inspect_snapshot)
_config.command("show")(config_show)


def _logging(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        datefmt="[%X]",
        handlers=[RichHandler(console=err, show_path=False)],
        force=True,
    )
    logging.getLogger("ecdctr").setLevel(logging.DEBUG if verbose else logging.INFO)
    # Our own errors report what matters of the libraries' logs; the rest, with its tracebacks, would only alarm. Faust logs for
    # classes that are derived from its own under the names of their modules, which no logger of this project has.
    for client in ("kafka", "aiokafka", "faust", "mode", "ecdctr.streams.app", "ecdctr.streams.intake"):
        logging.getLogger(client).setLevel(logging.WARNING if verbose else logging.CRITICAL)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        out.print(version("ecdctr"))
        raise typer.Exit


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more details.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    _logging(verbose)


def main() -> None:
    """Entry point of a process, which ends with it, whatever its threads do; elsewhere call :func:`run`."""
    from ecdctr.interrupt import end_in_time

    code = 1
    try:
        code = run()
    finally:
        end_in_time(code)
    sys.exit(code)


def run() -> int:
    """Run the command of the command line; an error of this package becomes one line. Returns the exit code."""
    try:
        # Outside of standalone mode click returns the exit code instead of exiting.
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except EcdctrError as error:
        _print_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        err.print("interrupted")
        return 130
    except typer.Abort:
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        # Whatever a file or a folder is, the user gets a sentence; --verbose shows where it was used.
        logging.getLogger("ecdctr").debug("where it was raised", exc_info=True)
        _print_error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 1
    except Exception as error:
        click_error = getattr(error, "format_message", None)
        if click_error is None:
            raise
        _print_error(click_error())
        return 2


def _print_error(text: str) -> None:
    err.print(Text.assemble(("error:", "bold red"), f" {text}"), soft_wrap=True, highlight=False)
