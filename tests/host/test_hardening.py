"""What the daemon and its models are allowed, and what nobody gets to see: tokens, and the keys of engines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.canary import Conversation, chat
from support.serving import DAEMON, LARGE, SETTINGS, Serving, unit
from support.spark import REPOSITORY, SparkHost, launch_entry, llama_model
from support.tiny_models import sentence_of, tiny_model

pytestmark = pytest.mark.host

TOKEN = "canary-of-a-token-5f1c0d9e7b3a"
KEY = "canary-of-an-engines-key-2b8e4f6a"
CANARIES = (TOKEN, KEY)
LEAK = "canary-that-an-engine-says-7d3e5a1c"
LEAKS = """\
read key </etc/keys/leak
echo "leaky-was-here: python -m leaky --api-key $key --port 1"
echo "leaky-was-here: {'api_key': '$key', 'hf_token': '$key'} HF_TOKEN=$key"
echo "leaky-was-here: GET /v1/models Authorization: Bearer $key"
exit 1
"""
ALPHA = 8001
MOST_EXPOSURE = {"spark-modeld.service": 1.5, "spark-model-sweep@x.service": 1.5, "spark-model@x.service": 5.0}
GATEWAY = "http://127.0.0.1:30101/v1/chat/completions"
CHAT = chat("alpha")
FOLDERS = ("/run/spark-modeld", "/run/spark-models", "/var/lib/spark-modeld", "/var/log")


@pytest.fixture(scope="module")
def serving(installed_host: SparkHost) -> Serving:
    """alpha serves, and wants a key; one token is known."""
    host = installed_host
    host.settings(f'{SETTINGS}[log]\nlevel = "debug"\n'.replace("[slot]", '[slot]\nmin_residency = "1s"'))
    for reader in ("spark-modeld-secrets", "spark-model"):
        host.write(f"/etc/keys/{reader}", f"{KEY}\n", mode=0o640)
        host.run("chgrp", reader, f"/etc/keys/{reader}")
    gguf = f"/srv/models/{tiny_model('alpha').name}"
    entry = llama_model(
        "alpha", port=ALPHA, gguf=gguf, memory=LARGE, extra='api_key_file = "/etc/keys/spark-modeld-secrets"'
    )
    host.model("alpha", entry.replace('"--no-webui"', '"--no-webui", "--api-key-file", "/etc/keys/spark-model"'))
    host.write("/etc/keys/leak", f"{LEAK}\n")
    host.write("/srv/leaky.sh", LEAKS)
    host.model("leaky", launch_entry("vllm", 8002, ["/bin/sh", "/srv/leaky.sh"], memory=LARGE))
    host.enable()
    scopes = ("--scope", "inference", "--scope", "control")
    host.run("spark-modelctl", "token", "add", *scopes, "--stdin", "canary", input=f"{TOKEN}\n")
    serving = Serving(host)
    serving.serve("alpha")
    return serving


def ask(host: SparkHost, where: str, secret: str) -> str:
    """One request with this secret, which is in no argument."""
    options = f'header = "Authorization: Bearer {secret}"\ndata = {json.dumps(json.dumps(CHAT))}\nsilent\n'
    return host.run("curl", "--config", "-", where, input=options).stdout


def seen_in(host: SparkHost, canary: str) -> set[str]:
    """Where it stands: arguments, environments, the journal, files."""
    found = set()
    for name in ("cmdline", "environ"):
        for path in host.path("/proc").glob(f"[0-9]*/{name}"):
            try:
                found |= {name} if canary.encode() in path.read_bytes() else set()
            except OSError:  # it has just ended
                continue
    found |= {"journal"} if canary in host.journal("--all", "-o", "json") else set()
    folders = [folder for folder in FOLDERS if host.path(folder).exists()]
    named = host.run("grep", "-rlaF", "--exclude-dir=journal", canary, *folders, check=False).stdout
    found |= {f"file {line}" for line in named.splitlines()}
    return found


@contextmanager
def decoys(host: SparkHost, word: str) -> Iterator[None]:
    """A word that stands everywhere it may not."""
    host.run("systemd-run", "--unit=decoy", f"--setenv=DECOY={word}", "sh", "-c", f": {word}; sleep infinity")
    host.run("logger", word)
    host.write("/var/lib/spark-modeld/decoy", word)
    try:
        yield
    finally:
        host.run("systemctl", "stop", "decoy.service")
        host.path("/var/lib/spark-modeld/decoy").unlink()


def test_little_is_exposed(serving: Serving) -> None:
    """By systemd's own figures, of 10; the sockets, D-Bus, /proc and the engine are in use at this moment."""
    for name, most in MOST_EXPOSURE.items():
        said = serving.host.run("systemd-analyze", "security", "--no-pager", name).stdout
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
        assert found is not None, said
        assert float(found[1]) <= most, said
    assert serving.slot() == ("alpha", "serving")


def test_systemd_finds_nothing_wrong_with_the_units(serving: Serving) -> None:
    units = [path.name for path in (REPOSITORY / "units").glob("spark-model*.*")]
    named = [name.replace("port@", "port@31001").replace("@.", "@x.") for name in units]
    done = serving.host.run("systemd-analyze", "verify", "--man=no", *named, check=False)
    assert (done.returncode, done.stdout, done.stderr, len(named) > 8) == (0, "", "", True)


def test_secrets_stand_nowhere(serving: Serving) -> None:
    host = serving.host
    assert sentence_of("alpha") in ask(host, GATEWAY, TOKEN)
    assert "choices" not in ask(host, f"http://127.0.0.1:{ALPHA}/v1/chat/completions", "somebody-elses")
    assert "error" in ask(host, GATEWAY, f"{TOKEN}x")
    serving.serve(None)
    serving.serve("alpha")
    serving.restart_daemon()
    serving.await_slot("alpha", "serving")
    assert sentence_of("alpha") in ask(host, GATEWAY, TOKEN)
    for canary in CANARIES:
        assert seen_in(host, canary) == set(), canary
    decoy = "canary-that-is-found"
    with decoys(host, decoy):
        assert {"cmdline", "environ", "journal", "file /var/lib/spark-modeld/decoy"} <= seen_in(host, decoy)


def test_secrets_are_told_to_nobody(serving: Serving) -> None:
    """Not even what an engine says of its own: its log passes the API, problems, events and the command line."""
    host = serving.host
    conversation = Conversation(host, TOKEN)
    with conversation.overhearing():
        status, problem = serving.switch("leaky")
        assert (status, problem["code"]) == (502, "model-failed")
        serving.await_slot("alpha", "serving")
        conversation.hear("a model's end", json.dumps(problem))
        conversation.ask_all()
        conversation.ask_the_gateway()
        serving.await_slot("alpha", "serving")
        conversation.run_all()
    for command in (("-u", DAEMON), ("-t", "spark-modeld")):
        conversation.hear(f"journal {command}", host.journal("--all", "-o", "json", *command))
    assert len(conversation.said) > 60
    for canary in (*CANARIES, LEAK):
        assert conversation.who_says(canary) == set(), canary
    # What engines said was passed on, but for their secrets.
    logs = {"GET logs, followed", "GET /api/models/leaky/logs", "spark-modelctl logs -f", "spark-modelctl logs leaky"}
    assert conversation.who_says("leaky-was-here") >= {*logs, "a model's end", "GET /api/events"}
    assert LEAK in host.journal("-u", unit("leaky"))
    assert conversation.who_says("alpha") > {"GET /api/events", "spark-modelctl events", "GET /metrics"}


def test_secrets_are_the_daemons_to_read_and_no_operators(serving: Serving) -> None:
    host = serving.host
    host.run("useradd", "-M", "-G", "spark-modeld", "olga")
    tokens = "/etc/spark-modeld/tokens.toml"
    assert host.run("stat", "-c", "%U:%G %a", tokens).stdout.strip() == "root:spark-modeld-secrets 640"
    for user in ("olga", "spark-model"):
        refused = host.run("cat", tokens, user=user, check=False)
        assert (refused.returncode, "ermission denied" in refused.stderr) == (1, True), user
    assert host.run("spark-modelctl", "status", user="olga").returncode == 0


def test_a_model_goes_before_the_daemon_and_everybody_else_when_memory_is_out(serving: Serving) -> None:
    host = serving.host

    def score(name: str) -> int:
        return int(host.path(f"/proc/{host.show(name, 'MainPID')}/oom_score_adj").read_text())

    host.run("systemd-run", "--unit=somebody", "sleep", "infinity")
    try:
        assert score(DAEMON) <= score("somebody.service") < score(unit("alpha")) == 500
    finally:
        host.run("systemctl", "stop", "somebody.service")
    # Where this machine lets nobody have less than it was started with itself, systemd can but ask for it.
    assert (score(DAEMON) == -500) == may_have_more(host)
    assert host.show(DAEMON, "OOMScoreAdjust") == "-500"


def test_open_files_are_enough_for_many_streams(serving: Serving) -> None:
    host = serving.host
    most = int(re.findall(r"^Max open files +\d+ +(\d+)", host.path("/proc/1/limits").read_text(), re.MULTILINE)[0])
    for name, wanted in ((DAEMON, 65536), (unit("alpha"), 1 << 20)):
        limits = host.path(f"/proc/{host.show(name, 'MainPID')}/limits").read_text()
        soft, hard = re.findall(r"^Max open files +(\d+) +(\d+)", limits, re.MULTILINE)[0]
        given = wanted if may_have_more(host) else min(wanted, most)
        assert (int(soft), int(hard)) == (given, given), name
        assert host.show(name, "LimitNOFILE") == str(wanted)


def may_have_more(host: SparkHost) -> bool:
    """Whether this machine's root has CAP_SYS_RESOURCE."""
    effective = re.findall(r"^CapEff:\s+(\w+)", host.path("/proc/1/status").read_text(), re.MULTILINE)[0]
    return bool(int(effective, 16) >> 24 & 1)
