"""The configuration, the tokens, and who may read and write what."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from spark_modeld.cli.doctor.facts import Facts, PathFacts
from spark_modeld.cli.doctor.finding import Area, Finding, error, ok, unseen, warning
from spark_modeld.cli.text import counted
from spark_modeld.core.model import Container, Docker

_DAEMON, _SECRETS, _OPERATORS = "spark-modeld", "spark-modeld-secrets", "spark-modeld"


def configuration(facts: Facts) -> Iterator[Finding]:
    """What is wrong in the files, what is not in force yet, and what comes up after a boot."""
    area, seen, before = Area.CONFIGURATION, facts.config, 0
    for place in seen.unreadable:
        yield unseen(area, f"you may not read {place}")
        before += 1
    for file, key, message in seen.findings:
        what = f"{file}: {f'{key}: ' if key else ''}{message}"
        yield error(area, "invalid-config", what, f"editor {shlex.quote(file)}", "Then: spark-modelctl reload")
        before += 1
    if before:
        return
    models, default = facts.catalog.models, facts.catalog.settings.slot.default
    count = counted(len(models), "model")
    known = facts.daemon.models if facts.daemon is not None else None
    found: list[Finding] = []
    if known is not None and set(known) != set(models):
        changed = ", ".join(sorted(set(known) ^ set(models)))
        message = f"the files have changed since the daemon read them: {changed}"
        found.append(warning(area, "not-in-force", message, "spark-modelctl reload", by_user=True))
    for model_id, errors in sorted((known or {}).items()):
        if errors:
            level = error if model_id == default else warning
            message = f"{model_id}{', the default,' if model_id == default else ''} cannot load as it is: {errors[0]}"
            found.append(level(area, "model-unfit", message, f"spark-modelctl check {model_id}", by_user=True))
    if not models:
        note = "spark-modelctl add writes a model's file for a checkpoint, a container or a unit."
        look = f"ls /usr/share/doc/spark-modeld/examples {facts.setting.config}"
        found.append(warning(area, "no-models", "the catalog is empty", look, note))
    yield from found
    if not found and default:
        yield ok(area, f"{count}; after a boot {default} comes up, unless another was switched to")
    elif not found:
        yield ok(area, f"{count}, no default: after a boot comes up what was switched to last")


def tokens(facts: Facts) -> Iterator[Finding]:
    """Who has one, which are over, and is the file as it should be?"""
    area, seen = Area.TOKENS, facts.tokens
    found = [*_tokens_file(facts)]
    is_open = facts.catalog.settings.gateway.auth == "none"
    if is_open:
        message = "the gateway asks for no token (auth = none): every user and tunnel of this machine may use it"
        fix = f"editor {facts.setting.config}/spark-modeld.toml"
        found.append(warning(area, "open-gateway", message, fix, 'Set auth = "token" in [gateway], then reload.'))
    if seen is None or (seen.tokens is None and not seen.findings):
        found.append(unseen(area, "only root may read the tokens"))
    elif seen.findings:
        place = f"{facts.setting.config}/tokens.toml"
        message = f"{place}: {seen.findings[0]}: no token is good"
        fix = f"chmod 640 {place}" if "writable by everybody" in seen.findings[0] else f"editor {place}"
        found.append(error(area, "tokens-broken", message, fix))
    else:
        now, known = seen.now, seen.tokens or ()
        over = [token for token in known if token.expired(now)]
        for token in over:
            message = f"token {token.name} is over"
            found.append(warning(area, "token-expired", message, f"spark-modelctl token revoke {token.id}"))
        if len(over) == len(known) and not is_open:
            message = "nobody has a token that is good, so nobody can use the gateway"
            fix = "spark-modelctl token add --scope inference laptop"
            found.append(
                warning(area, "no-tokens", message, fix, "The name is yours to choose; the token is shown once.")
            )
    yield from found
    if not found and seen is not None:
        yield ok(area, f"{len(seen.tokens or ())} good")


def _tokens_file(facts: Facts) -> Iterator[Finding]:
    place = f"{facts.setting.config}/tokens.toml"
    file = (facts.paths or {}).get(place)
    if file is None or file.kind != "file":
        return
    if facts.setting.per_user:
        if file.mode & 0o077:
            yield error(Area.TOKENS, "tokens-mode", f"{place} is open to others", f"chmod 600 {place}", by_user=True)
        return
    if (file.owner, file.group) != ("root", _SECRETS) or file.mode & 0o137 or not file.mode & 0o040:
        message = f"{place} is {file.owner}:{file.group} {file.mode:04o} and has to be root:{_SECRETS} 0640"
        fix = f"chown root:{_SECRETS} {place} && chmod 640 {place}"
        yield error(Area.TOKENS, "tokens-mode", message, fix)


def permissions(facts: Facts) -> Iterator[Finding]:
    """The users and groups, the files, and the sockets of this machine."""
    area = Area.PERMISSIONS
    if facts.paths is None or facts.accounts is None:
        yield unseen(area, "the files could not be looked at in time")
        return
    if facts.setting.per_user:
        found = [*_user_files(facts)]
    else:
        found = [*_users(facts), *_files(facts), *_runtime(facts), *_keys(facts)]
    yield from found
    if not found:
        yield ok(area, "users, groups, folders and files are as they should be")


def _users(facts: Facts) -> Iterator[Finding]:
    assert facts.accounts is not None
    area, users, groups = Area.PERMISSIONS, facts.accounts.users, facts.accounts.groups
    missing = [name for name in (_DAEMON, "spark-model") if users.get(name) is None]
    missing += [name for name in (_OPERATORS, _SECRETS) if name not in groups and name not in missing]
    if missing:
        message = f"{', '.join(missing)}: no such user or group"
        yield error(area, "no-user", message, "systemd-sysusers spark-modeld.conf")
    for model in facts.catalog.models.values():
        if users.get(model.user) is None and model.user not in missing:
            fix = f"useradd --system --create-home {shlex.quote(model.user)}"
            yield error(area, "no-model-user", f"{model.id} runs as {model.user}, and there is no such user", fix)
    for user, member_of in users.items():
        if user == _DAEMON or not member_of:
            continue
        for group in sorted(member_of & {_OPERATORS, _SECRETS}):
            message = f"{user}, who runs models, is in group {group}: a model could read tokens or switch models"
            yield error(area, "model-in-group", message, f"gpasswd --delete {shlex.quote(user)} {group}")
    daemon = users.get(_DAEMON)
    if daemon is not None and "systemd-journal" in groups and "systemd-journal" not in daemon:
        message = f"{_DAEMON} is not in group systemd-journal, so no log of a model can be shown"
        fix = f"usermod -aG systemd-journal {_DAEMON} && systemctl restart spark-modeld.service"
        yield warning(area, "no-journal", message, fix)
    if daemon is not None and "docker" in daemon:
        message = f"{_DAEMON} is in group docker, which is as good as root; it needs no docker"
        yield warning(area, "daemon-in-docker", message, f"gpasswd --delete {_DAEMON} docker")


def _files(facts: Facts) -> Iterator[Finding]:
    """What root reads to run a model must be root's alone, else whoever can write it is root."""
    config = Path(facts.setting.config)
    mine = [config, config / "models.d", config / "spark-modeld.toml"]
    mine += [config / "models.d" / f"{model_id}.toml" for model_id in facts.catalog.models]
    wrong = [each for path in mine if (each := _path(facts, str(path))) and each.kind in {"file", "folder"}]
    wrong = [each for each in wrong if each.owner != "root" or each.mode & 0o022]
    if wrong:
        places = shlex.join(each.path for each in wrong)
        first = wrong[0]
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        message = f"{first.path} ({first.owner} {first.mode:04o}){more}: has to be root's, writable by nobody else"
        note = "Until then the launcher refuses to run it."
        yield error(Area.PERMISSIONS, "config-writable", message, f"chown root {places} && chmod go-w {places}", note)
    for model in facts.catalog.models.values():
        script = model.run.start_script if isinstance(model.run, Container) else None
        seen = _path(facts, script) if script is not None else None
        if seen is not None and seen.kind == "file" and (seen.owner not in {"root", model.user} or seen.mode & 0o022):
            who = f"others than root and {model.user}"
            message = f"{script} of {model.id} ({seen.owner} {seen.mode:04o}) may be changed by {who}"
            fix = f"chown root {shlex.quote(seen.path)} && chmod go-w {shlex.quote(seen.path)}"
            yield error(Area.PERMISSIONS, "script-writable", message, fix)


def _runtime(facts: Facts) -> Iterator[Finding]:
    area, create = Area.PERMISSIONS, "systemd-tmpfiles --create spark-modeld.conf"
    for path, owner, group in (
        (facts.setting.runtime, _DAEMON, _SECRETS),
        (facts.setting.reports, "root", "root"),
    ):
        seen = _path(facts, path)
        if seen is None or not seen.kind:
            continue
        if seen.kind == "missing":
            yield error(area, "folder-missing", f"{path} is missing", create)
        elif (seen.owner, seen.group) != (owner, group) or seen.mode & 0o022:
            message = f"{path} is {seen.owner}:{seen.group} {seen.mode:04o} and has to be {owner}:{group} 0755"
            yield error(area, "folder-owner", message, f"chown {owner}:{group} {path} && chmod 755 {path}")
    state = _path(facts, facts.setting.state)
    if state is not None and state.kind == "folder" and (state.owner != _DAEMON or state.mode & 0o022):
        message = (
            f"{state.path} is {state.owner}:{state.group} {state.mode:04o}: the daemon cannot keep its state there"
        )
        fix = f"chown -R {_DAEMON}:{_SECRETS} {state.path} && chmod 750 {state.path}"
        yield error(area, "state-owner", message, fix)
    door = _path(facts, facts.setting.socket)
    if door is not None and door.kind == "socket" and (door.group != _OPERATORS or door.mode & 0o777 != 0o660):
        message = f"{door.path} is {door.owner}:{door.group} {door.mode:04o} and has to be root:{_OPERATORS} 0660"
        yield error(area, "socket-mode", message, f"chgrp {_OPERATORS} {door.path} && chmod 660 {door.path}")


def _keys(facts: Facts) -> Iterator[Finding]:
    """The engines' own keys: the daemon reads them, nobody else has to."""
    for model in facts.catalog.models.values():
        seen = _path(facts, model.api_key_file) if model.api_key_file is not None else None
        if seen is None or not seen.kind:
            continue
        place = shlex.quote(seen.path)
        mend = f"chown root:{_SECRETS} {place} && chmod 640 {place}"
        if seen.kind == "missing":
            yield error(
                Area.PERMISSIONS,
                "no-key",
                f"{seen.path}, the key of {model.id}, is missing",
                f"install -m 640 -g {_SECRETS} /dev/stdin {place}",
            )
        elif seen.mode & 0o004:
            message = f"{seen.path}, the key of {model.id}, may be read by everybody"
            yield warning(Area.PERMISSIONS, "key-readable", message, mend)
        elif not (seen.group == _SECRETS and seen.mode & 0o040) and seen.owner != _DAEMON:
            message = f"{seen.path}, the key of {model.id}, cannot be read by the daemon"
            yield error(Area.PERMISSIONS, "key-unreadable", message, mend)


def _user_files(facts: Facts) -> Iterator[Finding]:
    for seen in (facts.paths or {}).values():
        if seen.kind in {"file", "folder"} and (seen.owner != facts.setting.user or seen.mode & 0o022):
            message = f"{seen.path} ({seen.owner} {seen.mode:04o}) has to be yours, writable by nobody else"
            fix = f"chmod go-w {shlex.quote(seen.path)}"
            yield error(Area.PERMISSIONS, "config-writable", message, fix, by_user=True)


def _path(facts: Facts, path: str) -> PathFacts | None:
    return (facts.paths or {}).get(path)


def needs_docker(facts: Facts) -> list[str]:
    """The models that run in containers."""
    return sorted(m.id for m in facts.catalog.models.values() if isinstance(m.run, Docker | Container))
