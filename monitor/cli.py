"""The command line: a list of commands, and what becomes of their errors.

A command is a plain function in ``monitor/commands/<name>.py``; its signature is its options, its docstring its help.
It is imported when it is called and not before, so that ``--help`` does not wait for Kafka's client and a web server.

Exit codes: 0 done, 1 the answer is no, 2 wrong usage or configuration, 3 something needed is out of reach; 130 after
Ctrl-C (typer's doing), and 70 (``EX_SOFTWARE``) for a bug of ours.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer
import typer.core
import typer.main

from monitor import __version__

EXIT_WRONG: Final = 2

PROGRAM: Final = "recording-monitor"

# In the order in which somebody who is new needs them. What follows the name is its line in the list of commands;
# the command's own --help says everything.
COMMANDS: Final[Mapping[str, str]] = {
    "run": "The monitor: judge every recording in the events topic, until stopped.",
    "ingest": "The webhook bridge: what Twilio posts, checked and produced to the events topic.",
    "doctor": "Say hop by hop whether everything is reachable and rightly set; changes nothing.",
    "demo": "The monitor on an embedded broker with simulated traffic.",
    "replay": "Judge events from files or the topic, through the same core; no side effects.",
    "export": "Write events of the topic into a file for replay.",
    "rejudge": "Judge final verdicts again under today's policy; written only with --apply.",
    "reconcile": "List recordings from Twilio and say what the stream missed; have it judged.",
    "report": "What was recorded in a stretch of time, what was not allowed, and what nobody could see.",
    "audit": "What in the accounts can start a recording, judged by the policy.",
    "verify": "Watch test calls, and prove that they are not recorded.",
    "bundle": "Pack what Twilio's support asks for about some recordings.",
    "rekey": "Copy a topic of events into one that is keyed by account.",
    "forget": "Take back what is stored about some recordings.",
    "simulate": "Write realistic traffic, and its truth beside it, into Kafka or a file.",
}
GROUPS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "topics": (
        "The topics the monitor needs.",
        {"check": "Say what is wrong with them.", "apply": "Create what is missing, and say what is wrong."},
    ),
    "twilio": (
        "Twilio's Event Streams: what the monitor needs of them.",
        {
            "check": "Say what is missing or wrong, and what that blinds us to.",
            "plan": "Show what apply would change.",
            "apply": "Make sinks and subscriptions as needed, and validate them.",
        },
    ),
    "quarantine": (
        "Messages that were set aside.",
        {
            "list": "List them: when, why, from where.",
            "show": "Show one of them.",
            "export": "Write their bytes into files.",
        },
    ),
    "policy": (
        "The policy: what it says, and why it said so.",
        {"check": "Say what is wrong with policies, or what they say in words.", "explain": "Explain one verdict."},
    ),
    "case": (
        "Cases: what is not allowed, and what people say to it.",
        {
            "list": "List them.",
            "show": "Show one of them.",
            "acknowledge": "Say that somebody looks at it.",
            "explain": "Say what explains it.",
            "comment": "Say something to it.",
            "close": "Close it: its alert is resolved.",
            "reopen": "Open it again.",
        },
    ),
    "alert": ("Alerts.", {"test": "Send a page that says it is a test, the real way."}),
    "config": ("The settings.", {"print": "Print the effective settings, secrets masked."}),
}


class _Lazy(typer.core.TyperGroup):
    """A group whose commands are known by name and one line, and imported when one of them is called."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the signature is the base's.
        """Keep the order of the table; the base sorts by name."""
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in place of its line in the list."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and name is not None and not isinstance(command, typer.core.TyperGroup):
            command = _command(self.name, name)
        return name, command, rest


def _command(group: str | None, name: str) -> Any:
    """Import a command: function ``name`` (or ``name_``, where that is a word of Python's) of its module."""
    module = importlib.import_module(f"monitor.commands.{group if group in GROUPS else name}")
    function = getattr(module, name, None) or getattr(module, f"{name}_")
    single = typer.Typer(add_completion=False, rich_markup_mode="markdown", context_settings=_CONTEXT)
    single.command(name)(function)
    return typer.main.get_command(single)


_CONTEXT: Final = {"help_option_names": ["-h", "--help"]}


def _listed() -> None:
    """Stand in the list of commands for a function that is not imported yet."""


def _application() -> typer.Typer:
    application = typer.Typer(
        cls=_Lazy,
        name=PROGRAM,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        context_settings=_CONTEXT,
        # Errors are told by `main`; a traceback with the values of variables would tell the customer's data as well.
        pretty_exceptions_enable=False,
    )
    application.callback()(_root)
    for name, line in COMMANDS.items():
        application.command(name, help=line)(_listed)
    for group, (line, commands) in GROUPS.items():
        inner = typer.Typer(
            cls=_Lazy, help=line, no_args_is_help=True, rich_markup_mode="markdown", context_settings=_CONTEXT
        )
        # Without a callback typer makes a group of one command into that command: `config` for `config print`.
        inner.callback()(_group)
        for name, description in commands.items():
            inner.command(name, help=description)(_listed)
        application.add_typer(inner, name=group, help=line)
    return application


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so.
    if asked:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _root(
    *,
    _asked: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Judge every Twilio recording in an event stream against a declared policy.

    Settings come from monitor.yaml (or --config FILE), and from RECORDING_MONITOR_… in the environment over it.
    """


def _group() -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; ``arguments`` None means those of the process. Never returns."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Errors go to stderr, each a line that says what to do."""
    try:
        typer.main.get_command(_application()).main(args=arguments and list(arguments), prog_name=PROGRAM)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else EXIT_WRONG if done.code else 0
    except Exception as error:
        # Imported here: a command that goes well needs nothing of it.
        from monitor.commands.failure import tell

        return tell(error)
    return 0
