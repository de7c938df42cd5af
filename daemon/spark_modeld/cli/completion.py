"""Shell completion, with the names of the daemon's models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from spark_modeld.cli.failures import Failure
from spark_modeld.cli.options import Ctl, common

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "spark-modelctl"
VARIABLE = "_SPARK_MODELCTL_COMPLETE"
_PATIENCE_SECONDS = 0.5


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids that begin like this; none when the daemon is away, for a prompt must not hang or complain."""
    from click.shell_completion import CompletionItem

    del parameter
    known = _ask(context, "/api/models", "models")
    return [CompletionItem(m["id"], help=m["state"]) for m in known if m["id"].startswith(incomplete)]


def complete_model_or_path(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids that begin like this, or else files."""
    from click.shell_completion import CompletionItem

    found = complete_model(context, parameter, incomplete) if "/" not in incomplete else []
    return found or [CompletionItem(incomplete, type="file")]


def complete_switch(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The switches of late, the newest first; to be cancelled: the one under way."""
    from click.shell_completion import CompletionItem

    del parameter
    known = _ask(context, "/api/switches?limit=20", "switches")
    if context.command.name == "cancel":
        known = [each for each in known if each["outcome"] is None]
    return [
        CompletionItem(s["id"], help=f"{s['model'] or 'empty'} {s['outcome'] or s['phase']}")
        for s in known
        if s["id"].startswith(incomplete)
    ]


def _ask(context: click.Context, path: str, member: str) -> list[dict[str, Any]]:
    client = context.ensure_object(Ctl).patient_client(_PATIENCE_SECONDS)
    try:
        return list(client.call("GET", path)[member])
    except Failure:
        return []


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print completion for SHELL, for example: eval "$(spark-modelctl completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    source = kind(context.find_root().command, {}, PROGRAM, VARIABLE).source()
    # zsh keeps an autoloaded file as the function's body: from its second call on it would register itself again, and
    # complete nothing.
    click.echo(source.replace("$zsh_eval_context[-1] == loadautofunc", f"$funcstack[1] == _{PROGRAM}"))
