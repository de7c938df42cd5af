"""``spark-modelctl connect``: a client's exact settings, and a live test of them."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import Any

import click

from spark_modeld.cli.completion import complete_model
from spark_modeld.cli.failures import FAILED, USAGE, Failure, local
from spark_modeld.cli.options import Ctl, common, pass_ctl
from spark_modeld.cli.text import clean, paint

CLIENTS = ("cursor", "openwebui", "openai", "curl")
_LABEL = 9


@click.command()
@click.argument("client", type=click.Choice(CLIENTS))
@click.option("--model", metavar="MODEL", shell_complete=complete_model, help="For this model [what the slot serves].")
@click.option("--url", metavar="URL", help="Another base URL than the one this machine knows, such as a tunnel's.")
@click.option("--token-file", type=click.File("r"), help="The file with the client's token; - is standard input.")
@click.option("--token-stdin", is_flag=True, help="Take the client's token from standard input.")
@click.option("--switch", is_flag=True, help="The test may bring MODEL into the slot.")
@common
@pass_ctl
def connect(
    ctl: Ctl, client: str, model: str | None, url: str | None, token_file: Any, token_stdin: bool, switch: bool
) -> None:
    """Print the exact settings for CLIENT, and test them: 401 without a token, 200 with it, the model, an answer.

    The token is read from a file or standard input, never from the command line; `spark-modelctl token add` makes one.
    Without --switch the test never brings a model into the slot. Exit status 1 where a test failed.
    """
    if token_stdin and token_file is not None:
        raise click.UsageError("Say --token-file or --token-stdin, not both.")
    if switch and model is None:
        raise click.UsageError("--switch needs a --model to switch to.")
    from spark_modeld.cli.client_settings import settings_of
    from spark_modeld.cli.trial import Trial

    source = sys.stdin if token_stdin else token_file
    token = _token(source.readline()) if source is not None else None
    place = _place(ctl, url, public=client == "cursor")
    name = model or "local"
    settings = settings_of(client, place["url"], name, needs_token=place["token"] is not None)
    command = "spark-modelctl --user" if ctl.user else "sudo spark-modelctl"
    trial = Trial(place["url"], name, token, is_open=place["token"] is None, ctl=command)
    if switch and not ctl.json:
        click.echo(f"The test waits until {model} serves; it may take as long as that loads.", err=True)
    results = trial.run(may_chat=_may_chat(ctl, model, allowed=switch))
    good = all(result.ok is not False for result in results)
    shown = {
        "ok": good,
        "client": client,
        "base_url": place["url"],
        "reach": place["reach"],
        "model": name,
        "settings": settings.values,
        "example": settings.example,
        "notes": [*place["notes"], *settings.notes],
        "tests": [{"name": each.name, "ok": each.ok, "detail": each.detail} for each in results],
    }
    ctl.say(shown, *([] if ctl.json else _screen(shown)))
    if not good:
        sys.exit(FAILED)


def _token(line: str) -> str:
    token = line.strip()
    if not token or any(not "!" <= c <= "~" for c in token):
        detail = "There is no token on the first line: it is printable characters without spaces, such as smd_…"
        raise local("usage", "No token", detail, USAGE)
    return token


def _place(ctl: Ctl, url: str | None, *, public: bool) -> dict[str, Any]:
    """The gateway's best address for this client: the public one where it is called from elsewhere."""
    if url is not None:
        base = url.rstrip("/")
        if not base.startswith(("http://", "https://")):
            raise click.BadParameter("must begin with http:// or https://", param_hint="--url")
        return {"url": base if base.endswith("/v1") else f"{base}/v1", "reach": None, "token": "inference", "notes": []}
    found = ctl.client.call("GET", "/api/endpoints")["endpoints"]
    gateways = [each for each in found if each["kind"] == "gateway"]
    if not gateways:
        raise local("failed", "No gateway", "The gateway listens nowhere: see `spark-modelctl doctor`.", FAILED)
    if not public:
        return {**gateways[0], "notes": []}
    internet = [each for each in gateways if each["reach"] == "internet"]
    if internet:
        return {**internet[0], "notes": []}
    note = (
        "Cursor calls from its own servers, so it needs a public address, and there is none yet: "
        "`tailscale funnel --bg 30101` makes one; then run this again. What follows was tested on this machine."
    )
    return {**gateways[0], "notes": [note]}


def _may_chat(ctl: Ctl, model: str | None, *, allowed: bool) -> str:
    """ "" where a question starts nothing, or may; else the reason why the test asks none."""
    if allowed:
        return ""
    try:
        if model is None:
            slot = ctl.client.call("GET", "/api/status")["slot"]
            serving = slot["phase"] == "serving"
            return (
                "" if serving else f"nothing serves in the slot ({slot['phase']}): `spark-modelctl switch MODEL` first"
            )
        models = ctl.client.call("GET", "/api/models")["models"]
    except Failure as failure:
        return f"the daemon did not say whether that would start a model ({failure.problem.get('title', 'no answer')})"
    known = [m for m in models if model in {m["id"], m["served_model_name"], *m["aliases"]}]
    if not known:
        return f"there is no model {model}; `spark-modelctl models` lists them"
    return (
        "" if known[0]["state"] == "serving" else f"{model} does not serve: with --switch it is brought into the slot"
    )


def _screen(shown: dict[str, Any]) -> list[str]:
    widest = max(map(len, shown["settings"]))
    lines = [f"{paint(label.ljust(widest), 'dim')}  {clean(value)}" for label, value in shown["settings"].items()]
    if shown["example"]:
        lines += ["", *(f"  {line}" for line in shown["example"].splitlines())]
    lines += ["", *(paint(clean(note), "dim") for note in shown["notes"])] if shown["notes"] else []
    lines.append("")
    words = {True: ("works", "green"), False: ("fails", "red"), None: ("untested", "yellow")}
    # Steps that were left out for one reason are told in one line.
    for (ok, detail), same in groupby(shown["tests"], key=lambda test: (test["ok"], test["detail"])):
        names = [test["name"] for test in same]
        told = [", ".join(names)] if detail else names
        word, colour = words[ok]
        lines += [
            f"{paint(word.ljust(_LABEL), colour)} {clean(f'{name}: {detail}' if detail else name)}" for name in told
        ]
    return lines
