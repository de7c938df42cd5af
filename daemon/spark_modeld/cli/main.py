"""The entry point of spark-modelctl."""

from __future__ import annotations

import sys
from typing import Any

import click

from spark_modeld import __version__
from spark_modeld.cli import acting, adding, checking, log, own_units, reaching, reading, watching
from spark_modeld.cli.completion import PROGRAM, VARIABLE, completion
from spark_modeld.cli.connecting import connect
from spark_modeld.cli.doctor.command import doctor
from spark_modeld.cli.failures import Failure
from spark_modeld.cli.options import Ctl, common
from spark_modeld.cli.problems import tell
from spark_modeld.cli.tokens import token


class Program(click.Group):
    """Tells failures the way the run was asked to, in the order of the manual."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added."""
        del ctx
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; a Failure ends with its exit status."""
        try:
            return super().invoke(ctx)
        except Failure as failure:
            tell(failure, as_json=ctx.ensure_object(Ctl).json)
            ctx.exit(failure.exit_code)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
@common
def cli() -> None:
    """Operate the serve slot of this machine.

    Exit status: 0 done, 1 failed, 2 usage, 3 daemon not reachable, 4 refused, 5 no such model, 6 timed out.
    """


for _command in (
    reading.status,
    reading.models,
    acting.switch,
    acting.cancel,
    acting.start,
    acting.stop,
    checking.check,
    adding.add,
    reading.memory,
    reading.history,
    reaching.endpoints,
    connect,
    log.logs,
    watching.events,
    acting.reload,
    doctor,
    token,
    acting.shutdown,
    own_units.install_units,
    completion,
):
    cli.add_command(_command)


def main() -> int:
    """Runs the command line; ends the process with its exit status."""
    cli.main(prog_name=PROGRAM, complete_var=VARIABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
