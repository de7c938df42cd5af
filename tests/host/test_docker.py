"""Models in containers, with the real docker: every way to run them, and what becomes of them when things go wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from support.docker import (
    bad_docker,
    container_entry,
    docker_entry,
    llama_command,
    run_detached,
    run_words,
    start_docker,
    why_not,
)
from support.serving import SETTINGS, Serving, await_that, unit
from support.spark import SOURCE, SparkHost, llama_model
from support.tiny_models import tiny_model

pytestmark = pytest.mark.host

# What an administrator adds for units of their own.
RULE = """\
polkit.addRule(function (action, subject) {
    if (action.id === "org.freedesktop.systemd1.manage-units" && subject.user === "spark-modeld"
        && ["boxed.service", "leaky.service"].indexOf(action.lookup("unit")) >= 0) {
        return polkit.Result.YES;
    }
});
"""
SCRIPTS = "/home/spark/ai/scripts/serve"


class Boxes(Serving):
    """The host, and what docker shows of it."""

    def docker(self, *words: str, check: bool = True) -> str:
        """What the docker CLI says, as root."""
        return self.host.run("docker", *words, check=check).stdout.strip()

    def containers(self, *, all: bool = False) -> set[str]:
        """The names of those that run; with ``all``, of all there are."""
        return set(self.docker("ps", "--format", "{{.Names}}", *(["--all"] if all else [])).split())

    def inspect(self, name: str) -> Any:
        """What docker knows of a container."""
        return json.loads(self.docker("inspect", name))[0]

    def another(self, name: str, before: str) -> bool:
        """Whether a container of this name runs that is not the one of before."""
        found = self.docker("inspect", "--format", "{{.Id}} {{.State.Running}}", name, check=False).split()
        return len(found) == 2 and found[0] != before and found[1] == "true"

    def report(self, model: str, name: str) -> str | None:
        """What the launcher reports."""
        try:
            return self.host.path(f"/run/spark-models/{model}/{name}").read_text()
        except FileNotFoundError:
            return None

    def follower(self, model: str, *words: str) -> int:
        """The docker CLI in the model's unit with these words, by this machine's PID."""
        folder = self.host.cgroup / "spark.slice/spark-models.slice" / unit(model)

        def look() -> int | None:
            for pid in map(int, (folder / "cgroup.procs").read_text().split()):
                with contextlib.suppress(OSError):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    first = 3 if line[1:2] == [b"--config"] else 1
                    if line[0].endswith(b"docker") and line[first : first + len(words)] == [w.encode() for w in words]:
                        return pid
            return None

        return await_that(look, f"docker {' '.join(words)} of {model}")  # type: ignore[return-value]

    def kill_main(self, model: str) -> None:
        """SIGKILL for the unit's main process, past systemd."""
        self.host.run("kill", "-KILL", str(self.pid(model)))

    def serves(self, model: str, port: int) -> None:
        """It is in the slot, and its own engine answers."""
        assert self.slot() == (model, "serving")
        assert model in self.host.ask(port)


class Alive:
    """Looks all the time which models' engines are alive on the host, in whatever control group, by their aliases."""

    def __init__(self, host: SparkHost) -> None:
        self._host = host
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alive")
        self.looks = 0
        self.parallel: list[set[str]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert kind is not None or self.looks > 5
        assert kind is not None or not self.parallel, f"two large models were alive: {self.parallel}"

    def _run(self) -> None:
        while not self._over.wait(0.005):
            first = self.now()
            if len(first) > 1 and len(again := first & self.now()) > 1:
                self.parallel.append(again)
            self.looks += 1

    def now(self) -> set[str]:
        """The models alive at this moment."""
        found = set()
        for folder, _, files in os.walk(self._host.cgroup):
            if "cgroup.procs" not in files or (".service" not in folder and ".scope" not in folder):
                continue
            with contextlib.suppress(OSError):
                for pid in Path(folder, "cgroup.procs").read_text().split():
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    if words[0].endswith(b"llama-server") and b"--alias" in words:
                        found.add(words[words.index(b"--alias") + 1].decode())
        return found


@pytest.fixture(scope="module")
def host() -> Iterator[SparkHost]:
    if reason := why_not():
        pytest.fail(reason)
    with SparkHost() as host:
        host.install()
        start_docker(host)
        host.run("useradd", "--create-home", "spark")
        host.settings(f'{SETTINGS}[health]\nstall_timeout = "10s"\n')
        host.write("/etc/polkit-1/rules.d/60-own.rules", RULE)
        host.model("image-a", docker_entry("llama-server", 30001, llama_command("image-a", 30001)))
        host.model("image-b", docker_entry("llama-server", 30001, llama_command("image-b", 30001)))
        host.model("named", container_entry("llama-server", 30002, "sglang-named"))
        host.run("sh", "-c", run_detached("sglang-named", llama_command("named", 30002), verb="create"))
        script(host, "scripted", run_detached("sglang-scripted", llama_command("scripted", 30003)))
        host.model(
            "scripted",
            container_entry(
                "llama-server", 30003, "sglang-scripted", script=f"{SCRIPTS}/scripted.sh", extra='user = "spark"'
            ),
        )
        gguf = f"/srv/models/{tiny_model('plain').name}"
        host.model("plain", llama_model("plain", port=30004, gguf=gguf, memory="2GiB"))
        host.enable()
        yield host


def script(host: SparkHost, name: str, command: str, *, mode: int = 0o755) -> None:
    """A serve script in somebody's home."""
    host.write(f"{SCRIPTS}/{name}.sh", f"#!/bin/bash\nset -e\n{command}\n", mode=mode)
    host.run("chown", "-R", "spark:spark", "/home/spark")


@pytest.fixture
def boxes(host: SparkHost) -> Boxes:
    boxes = Boxes(host)
    boxes.serve(None)
    assert Alive(host).now() == set()
    return boxes


PORTS = {"image-a": 30001, "image-b": 30001, "named": 30002, "scripted": 30003, "plain": 30004}


def test_the_cli_switches_to_and_from_each_way_to_run(boxes: Boxes) -> None:
    running = {"image-a": "spark-model-image-a", "image-b": "spark-model-image-b"}
    running |= {"named": "sglang-named", "scripted": "sglang-scripted"}
    order = ["plain", "image-a", "image-b", "named", "scripted", "image-a", "scripted", "plain", "named", "plain"]
    with Alive(boxes.host) as alive:
        for model in order:
            boxes.ctl("switch", model, "--wait")
            boxes.serves(model, PORTS[model])
            assert alive.now() == {model}
            name = running.get(model)
            assert boxes.containers() == ({name} if name else set())
            if name:
                assert boxes.report(model, "container") == f"{boxes.inspect(name)['Id']}\n"
                assert boxes.report(model, "image") == "engines:1\n"
    assert boxes.containers(all=True) == {"sglang-named", "sglang-scripted"}
    journal = boxes.host.journal("-u", unit("scripted"))
    assert journal.count("running /home/spark/ai/scripts/serve/scripted.sh") == 1
    assert "listening on http://127.0.0.1:30003" in journal
    assert boxes.host.run("systemctl", "--failed", "--no-legend").stdout == ""


def test_who_runs_what(boxes: Boxes) -> None:
    boxes.serve("image-a")
    root = boxes.host.path("/run/spark-models/image-a")
    assert {root.stat().st_uid, *((root / name).stat().st_uid for name in ("container", "image", "clean"))} == {0}
    status = Path(f"/proc/{boxes.follower('image-a', 'run')}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] == boxes.host.run("id", "-u", "spark-model").stdout.strip()
    docker = boxes.host.run("getent", "group", "docker").stdout.split(":")[2]
    assert docker in fields["Groups"].split()
    assert "docker" not in boxes.host.run("id", "-Gn", "spark-model").stdout.split()
    assert (fields["CapEff"], fields["NoNewPrivs"]) == ("0000000000000000", "1")


def test_to_whom_the_group_is_only_lent_cannot_steer_the_cli(boxes: Boxes) -> None:
    """An engine without a container wrote this into the home it shares with one: a context reached by its program."""
    home, theirs = "/var/lib/spark-models", hashlib.sha256(b"theirs").hexdigest()
    context = {"Name": "theirs", "Metadata": {}, "Endpoints": {"docker": {"Host": "ssh://theirs"}}}
    boxes.host.write(f"{home}/.docker/config.json", json.dumps({"currentContext": "theirs"}))
    boxes.host.write(f"{home}/.docker/contexts/meta/{theirs}/meta.json", json.dumps(context))
    boxes.host.write(f"{home}/.ssh/config", "Host theirs\n  ProxyCommand /usr/bin/id -G >/tmp/groups\n", mode=0o600)
    boxes.host.run("chown", "-R", "spark-model:spark-model", home)
    try:
        boxes.serve("image-a")
        boxes.serve(None)
        assert "spark-model-image-a" not in boxes.containers(all=True)
        assert not boxes.host.path("/tmp/groups").exists()
    finally:
        boxes.host.run("rm", "-r", f"{home}/.docker", f"{home}/.ssh")


def test_memory_names_the_model_of_a_container(boxes: Boxes) -> None:
    boxes.serve("image-a")
    assert boxes.host.show(unit("image-a"), "MainPID") != "0"
    container = str(boxes.report("image-a", "container")).strip()
    assert boxes.host.show(f"docker-{container}.scope", "ActiveState") == "active"


def again(boxes: Boxes, model: str, before: str | None) -> None:
    """The model serves in another container than before, and there is no other one."""
    await_that(lambda: boxes.report(model, "container") not in (None, before), f"another container for {model}")
    boxes.await_slot(model, "serving")
    boxes.serves(model, PORTS[model])
    assert boxes.containers() == {f"spark-model-{model}"}


def test_a_killed_cli_takes_its_container_with_it(boxes: Boxes) -> None:
    boxes.serve("image-a")
    before = boxes.report("image-a", "container")
    with Alive(boxes.host):
        os.kill(boxes.follower("image-a", "run"), signal.SIGKILL)
        again(boxes, "image-a", before)
    assert "before its container, which is removed" in boxes.host.journal("-u", unit("image-a"))


def test_a_killed_supervisor_takes_its_container_with_it(boxes: Boxes) -> None:
    boxes.serve("image-a")
    before = boxes.report("image-a", "container")
    pid = boxes.inspect("spark-model-image-a")["State"]["Pid"]
    boxes.kill_main("image-a")
    again(boxes, "image-a", before)
    assert not boxes.host.path(f"/proc/{pid}").exists()
    assert boxes.host.show("spark-model-clean@image-a.service", "Result") == "success"


def test_nothing_else_is_started_until_a_killed_supervisors_container_is_gone(boxes: Boxes) -> None:
    boxes.serve("image-a")
    boxes.host.write("/run/holds/clean", "")
    hold = "[Service]\nExecStartPre=/bin/sh -c 'while [ -e /run/holds/clean ]; do sleep 0.05; done'\n"
    boxes.host.write("/run/systemd/system/spark-model-clean@.service.d/hold.conf", hold)
    boxes.host.run("systemctl", "daemon-reload")
    with Alive(boxes.host) as alive:
        boxes.kill_main("image-a")
        await_that(lambda: boxes.active("image-a") == "failed", "the unit to fail")
        switch = boxes.begin("plain")
        await_that(lambda: boxes.status()["slot"]["phase"] == "stopping", "the slot to be stopping")
        assert alive.now() == {"image-a"}
        boxes.host.path("/run/holds/clean").unlink()
        assert boxes.ended(switch)["outcome"] == "ready"
        boxes.serves("plain", PORTS["plain"])
    boxes.host.run("rm", "-r", "/run/systemd/system/spark-model-clean@.service.d")
    boxes.host.run("systemctl", "daemon-reload")


def test_a_container_that_has_the_name_already_is_replaced(boxes: Boxes) -> None:
    boxes.host.run("sh", "-c", run_detached("spark-model-image-a", ["/usr/bin/sleep", "1000"]))
    stranger = boxes.inspect("spark-model-image-a")["Id"]
    boxes.serve("image-a")
    boxes.serves("image-a", 30001)
    assert boxes.inspect("spark-model-image-a")["Id"] != stranger
    assert "was left over" in boxes.host.journal("-u", unit("image-a"))


def test_a_detached_container_ends_with_its_launcher(boxes: Boxes) -> None:
    boxes.serve("named")
    started = boxes.inspect("sglang-named")["State"]["StartedAt"]
    with Alive(boxes.host):
        boxes.kill_main("named")
        await_that(lambda: boxes.inspect("sglang-named")["State"]["StartedAt"] != started, "a second start")
        boxes.await_slot("named", "serving")
        boxes.serves("named", 30002)


def test_a_container_that_runs_already_is_taken_over(boxes: Boxes) -> None:
    boxes.docker("start", "sglang-named")
    before = boxes.inspect("sglang-named")["State"]
    boxes.serve("named")
    assert boxes.inspect("sglang-named")["State"]["Pid"] == before["Pid"]
    await_that(lambda: "taken over as it is" in boxes.host.journal("-u", unit("named")), "the launcher to say so")
    boxes.serve("plain")
    assert boxes.inspect("sglang-named")["State"]["Status"] == "exited"


def test_a_stop_right_after_a_container_was_taken_over_reaches_it(boxes: Boxes) -> None:
    boxes.docker("start", "sglang-named")
    boxes.host.await_engine(30002)
    boxes.serve("named")  # at once: its engine answers before the launcher has looked at it
    boxes.serve(None)
    assert boxes.inspect("sglang-named")["State"]["Status"] == "exited"


def test_a_container_that_somebody_stops_ends_its_unit(boxes: Boxes) -> None:
    boxes.serve("named")
    main = boxes.pid("named")
    boxes.docker("stop", "sglang-named")
    await_that(lambda: boxes.pid("named") not in (0, main), "another process of the unit")
    boxes.await_slot("named", "serving")


def test_a_killed_follower_is_replaced(boxes: Boxes) -> None:
    boxes.serve("named")
    main, waiting = boxes.pid("named"), boxes.follower("named", "wait")
    os.kill(waiting, signal.SIGKILL)
    await_that(lambda: boxes.follower("named", "wait") != waiting, "another docker wait")
    assert boxes.pid("named") == main
    boxes.serves("named", 30002)


@pytest.mark.parametrize(("switches", "status"), [(["--stop-seconds", "1"], "0\n"), (["--ignore-sigterm"], "137\n")])
def test_the_stop_time_is_honoured(boxes: Boxes, switches: list[str], status: str) -> None:
    model = f"stops{len(switches)}"
    boxes.host.model(model, bad_docker(model, 30010 + len(switches), *switches, extra='stop_timeout = "5s"'))
    boxes.reload()
    boxes.serve(model)
    boxes.serve(None)
    assert boxes.report(model, "exit") == status
    assert boxes.active(model) == "inactive"
    assert f"killing {unit(model)}" not in boxes.host.journal("-u", "spark-modeld.service")
    assert boxes.containers() == set()


def sglang_command(port: int) -> list[str]:
    """A stand-in that ends itself with SIGKILL after a SIGTERM, as SGLang does."""
    words = ["--as", "sglang", "--holds", "/run/holds/sglang", "--name", "suicidal", "--port", str(port)]
    return ["/usr/bin/python3", "-I", "-S", f"{SOURCE}/tests/support/vendor_engine.py", *words]


def test_an_engine_that_ends_itself_by_a_signal_is_gone_at_once(boxes: Boxes) -> None:
    """As the container's first process it could not: docker's SIGKILL would come after the stop time."""
    entry = docker_entry("sglang", 30024, sglang_command(30024), extra='stop_timeout = "5min"')
    boxes.host.model("suicidal", entry)
    boxes.reload()
    boxes.serve("suicidal")
    assert boxes.inspect("spark-model-suicidal")["HostConfig"]["Init"] is True
    boxes.serve(None)  # fails when it takes longer than a minute
    assert boxes.report("suicidal", "exit") == "137\n"
    assert boxes.containers() == set()


def test_an_image_with_an_init_of_its_own_may_keep_it(boxes: Boxes) -> None:
    entry = docker_entry("llama-server", 30025, llama_command("own-init", 30025))
    boxes.host.model("own-init", entry.replace("options = [", 'options = ["--init=false", '))
    boxes.reload()
    boxes.serve("own-init")
    assert boxes.inspect("spark-model-own-init")["HostConfig"]["Init"] is False
    boxes.serve(None)
    assert boxes.report("own-init", "exit") == "0\n"


def test_a_kill_in_the_midst_of_a_stop_ends_the_container_at_once(boxes: Boxes) -> None:
    boxes.host.model("stubborn", bad_docker("stubborn", 30020, "--ignore-sigterm", extra='stop_timeout = "5min"'))
    boxes.reload()
    boxes.serve("stubborn")
    pid = boxes.inspect("spark-model-stubborn")["State"]["Pid"]
    switch = boxes.begin(None)
    boxes.follower("stubborn", "stop")
    boxes.host.run("systemctl", "kill", "--signal=KILL", unit("stubborn"))  # as the daemon does under the floor
    assert boxes.ended(switch)["outcome"] == "ready"
    assert not boxes.host.path(f"/proc/{pid}").exists()
    assert boxes.host.show("spark-model-clean@stubborn.service", "Result") == "success"


def test_children_and_grandchildren_go_too(boxes: Boxes) -> None:
    wrapped = ["/usr/bin/bash", "-c", " ".join(["/usr/bin/sleep 5000 &", *llama_command("wrapped", 30013), "; wait"])]
    boxes.host.model("wrapped", docker_entry("llama-server", 30013, wrapped, extra='stop_timeout = "3s"'))
    boxes.reload()
    boxes.serve("wrapped")
    scope = f"system.slice/docker-{str(boxes.report('wrapped', 'container')).strip()}.scope"
    assert len((boxes.host.cgroup / scope / "cgroup.procs").read_text().split()) == 4, "docker's init is one"
    boxes.serve(None)
    assert not (boxes.host.cgroup / scope).exists()
    assert boxes.containers(all=True) <= {"sglang-named", "sglang-scripted"}


def test_an_absent_image_is_named_and_the_old_model_is_back(boxes: Boxes) -> None:
    boxes.host.model("absent", docker_entry("llama-server", 30014, ["x"], image="nobody/has:this"))
    boxes.reload()
    boxes.serve("plain")
    status, problem = boxes.switch("absent")
    assert (status, problem["code"]) == (502, "model-failed")
    assert any("docker pull nobody/has:this" in line for line in problem["log"]), problem
    boxes.await_slot("plain", "serving")


def checked(boxes: Boxes, model: str, *, exit_status: int) -> dict[str, str]:
    """The levels of what `spark-modelctl check` finds about docker; docker itself was asked."""
    found = json.loads(boxes.ctl("check", model, "--json", exit_status=exit_status))["findings"]
    assert "docker-not-asked" not in {finding["code"] for finding in found}
    about = ("image-absent", "container-absent", "restart-policy")
    return {finding["code"]: finding["level"] for finding in found if finding["code"] in about}


def test_check_asks_docker_for_the_image(boxes: Boxes) -> None:
    boxes.host.model("unpulled", docker_entry("llama-server", 30020, ["x"], image="nobody/has:this"))
    boxes.reload()
    assert checked(boxes, "unpulled", exit_status=1) == {"image-absent": "error"}
    assert "docker pull nobody/has:this" in boxes.ctl("check", "unpulled", exit_status=1)
    assert checked(boxes, "image-a", exit_status=0) == {}


def test_check_asks_docker_for_the_container(boxes: Boxes) -> None:
    boxes.host.model("uncreated", container_entry("llama-server", 30021, "sglang-uncreated"))
    boxes.reload()
    assert checked(boxes, "uncreated", exit_status=1) == {"container-absent": "error"}
    assert "docker has no container sglang-uncreated" in boxes.ctl("check", "uncreated", exit_status=1)
    assert checked(boxes, "named", exit_status=0) == {}


def test_check_warns_of_a_container_that_docker_starts_again(boxes: Boxes) -> None:
    create = ["create", "--restart", "always"]
    boxes.docker(*run_words("sglang-undead", llama_command("undead", 30022), *create))
    boxes.host.model("undead", container_entry("llama-server", 30022, "sglang-undead"))
    boxes.reload()
    try:
        assert checked(boxes, "undead", exit_status=0) == {"restart-policy": "warning"}
        assert "`docker update --restart=no sglang-undead`" in boxes.ctl("check", "undead").replace("\n", " ")
        boxes.docker("update", "--restart=no", "sglang-undead")
        assert checked(boxes, "undead", exit_status=0) == {}
    finally:
        boxes.docker("rm", "sglang-undead")


def test_a_container_that_runs_is_added_and_serves(boxes: Boxes) -> None:
    boxes.docker(*run_words("hand-run", llama_command("hand-run", 30023), "run", "--detach"))
    try:
        boxes.host.await_engine(30023)
        added = json.loads(boxes.ctl("add", "hand-run", "--id", "adopted", "--write", "--json"))
        read = tomllib.loads(added["toml"])
        assert (read["engine"], read["url"], read["container"]) == (
            *("llama-server", "http://127.0.0.1:30023"), {"name": "hand-run"},
        )  # fmt: skip
        assert (added["reloaded"], added["check"]["container"]) == (True, "hand-run")
        boxes.ctl("switch", "adopted", "--wait", "--force")
        assert boxes.containers() == {"hand-run"}
        boxes.serve(None)
        assert boxes.containers() == set()
    finally:
        boxes.host.run("rm", "-f", "/etc/spark-modeld/models.d/adopted.toml")
        boxes.reload()
        boxes.docker("rm", "--force", "hand-run")


@pytest.mark.parametrize(("mode", "reason"), [(0o777, "writable by everybody"), (0o755, "there is no container")])
def test_a_script_is_run_only_if_nobody_else_can_write_it(boxes: Boxes, mode: int, reason: str) -> None:
    script(boxes.host, "odd", "echo I ran", mode=mode)
    entry = container_entry("llama-server", 30015, "nowhere", script=f"{SCRIPTS}/odd.sh", extra='user = "spark"')
    boxes.host.model("odd", entry)
    boxes.reload()
    boxes.host.run("journalctl", "--rotate", "--vacuum-time=1s")
    assert (boxes.switch("odd")[0] == 422) == (mode == 0o777)
    status, _ = boxes.host.api("POST", "/api/switch?wait=true", {"model": "odd", "force": True})
    assert status == 502
    journal = boxes.host.journal("-u", unit("odd"), "-o", "cat")
    assert reason in journal
    assert ("I ran" in journal.splitlines()) == (mode == 0o755)


def own_unit(boxes: Boxes, model: str, port: int, service: str) -> None:
    """A unit that the test wrote by hand, and its model."""
    boxes.host.write(f"/etc/systemd/system/{model}.service", f"[Service]\n{service}\n")
    boxes.host.run("systemctl", "daemon-reload")
    entry = f'engine = "llama-server"\nurl = "http://127.0.0.1:{port}"\nmemory = "2GiB"\nstop_timeout = "30s"\n'
    boxes.host.model(model, f'{entry}unit = "{model}.service"\n')
    boxes.reload()


def test_a_oneshot_unit_whose_container_died_is_seen_as_down(boxes: Boxes) -> None:
    start = f"ExecStart={run_detached('boxed', llama_command('boxed', 30016))}"
    stop = "ExecStop=docker stop -t 5 boxed\nExecStopPost=-docker rm -f boxed"
    own_unit(boxes, "boxed", 30016, f"Type=oneshot\nRemainAfterExit=yes\n{start}\n{stop}")
    boxes.serve("boxed")
    assert boxes.host.show("boxed.service", "SubState") == "exited"
    before = boxes.inspect("boxed")["Id"]
    boxes.docker("kill", "boxed")
    assert boxes.host.show("boxed.service", "ActiveState") == "active"
    await_that(lambda: boxes.another("boxed", before), "another container")
    boxes.await_slot("boxed", "serving")
    assert "Nothing listens at http://127.0.0.1:30016" in boxes.host.journal("-u", "spark-modeld.service")
    boxes.serve(None)
    assert "boxed" not in boxes.containers(all=True)


def test_an_engine_that_outlives_its_unit_is_named_and_waited_for(boxes: Boxes) -> None:
    command = " ".join(llama_command("leaky", 30017))
    start = f"ExecStart=systemd-run --quiet --unit=escaped.service {command}"
    own_unit(boxes, "leaky", 30017, f"Type=oneshot\nRemainAfterExit=yes\n{start}")
    boxes.serve("leaky")
    switch = boxes.begin("plain")
    line = r"leaky is down, but not gone: llama-server (PID "
    await_that(lambda: line in boxes.host.journal("-u", "spark-modeld.service"), "the holder of the port to be named")
    journal = boxes.host.journal("-u", "spark-modeld.service")
    assert ") in escaped.service listening on port 30017" in journal[journal.index(line) :]
    assert boxes.active("plain") == "inactive"
    boxes.host.run("systemctl", "stop", "escaped.service")
    assert boxes.ended(switch)["outcome"] == "ready"
    boxes.serves("plain", 30004)


def test_a_container_started_past_us_is_told(boxes: Boxes) -> None:
    boxes.serve("named")
    boxes.serve("plain")
    boxes.docker("start", "sglang-named")
    await_that(lambda: "stray-container" in boxes.warnings(), "the container to be told of")
    boxes.serves("plain", 30004)
    boxes.docker("stop", "sglang-named")


def test_a_slow_reader_of_the_log_does_not_stall_the_engine(boxes: Boxes) -> None:
    flood = "head -c 4000000 /dev/zero | tr '\\\\0' x; echo; echo flooded"
    wait = "while [ ! -e /run/holds/flood ]; do sleep 0.05; done"
    shell = f"{' '.join(llama_command('chatty', 30018))} & {wait}; {flood}; wait"
    boxes.host.run("sh", "-c", run_detached("sglang-chatty", ["/usr/bin/bash", "-c", shell], verb="create"))
    boxes.host.model("chatty", container_entry("llama-server", 30018, "sglang-chatty", extra='stop_timeout = "4s"'))
    boxes.reload()
    boxes.serve("chatty")
    reader = boxes.follower("chatty", "logs")
    os.kill(reader, signal.SIGSTOP)
    boxes.host.write("/run/holds/flood", "")
    await_that(lambda: "flooded" in boxes.docker("logs", "--tail", "1", "sglang-chatty"), "all to be written")
    boxes.serves("chatty", 30018)
    os.kill(reader, signal.SIGCONT)
    await_that(lambda: "flooded" in boxes.host.journal("-u", unit("chatty"), "-n", "20"), "the reader to catch up")
    boxes.serve(None)
    boxes.docker("rm", "sglang-chatty")


def test_the_per_user_daemon_runs_containers_for_who_may_talk_to_docker(boxes: Boxes) -> None:
    host, folder = boxes.host, "/home/spark/.config/spark-modeld"
    host.run("usermod", "--append", "--groups", "docker", "spark")
    uid = host.run("id", "-u", "spark").stdout.strip()
    host.write(f"{folder}/spark-modeld.toml", f'{SETTINGS}[control]\nlisten = ["127.0.0.1:30177"]\n')
    host.write(f"{folder}/models.d/mine.toml", docker_entry("llama-server", 30019, llama_command("mine", 30019)))
    host.run("chown", "-R", "spark:", "/home/spark/.config")
    host.run("loginctl", "enable-linger", "spark")
    host.run("systemctl", "start", f"user@{uid}.service")

    def own(*words: str) -> str:
        return host.run("env", f"XDG_RUNTIME_DIR=/run/user/{uid}", *words, user="spark").stdout.strip()

    host.write("/home/spark/.config/systemd/user/spark-modeld-http.socket", "[Socket]\nListenStream=127.0.0.1:30177\n"
               "FileDescriptorName=http\nService=spark-modeld.service\n")  # fmt: skip
    own("systemctl", "--user", "daemon-reload")
    own("systemctl", "--user", "start", "spark-modeld.socket", "spark-modeld.service")
    own("spark-modelctl", "--user", "switch", "--wait", "mine")
    assert "mine" in host.ask(30019)
    assert boxes.containers() == {"spark-model-mine"}
    main = own("systemctl", "--user", "show", "--value", "--property", "MainPID", unit("mine"))
    before = boxes.inspect("spark-model-mine")["Id"]
    host.run("kill", "-KILL", main)
    await_that(lambda: boxes.another("spark-model-mine", before), "another container")
    await_that(lambda: "serving" in own("spark-modelctl", "--user", "status"), "it to serve again")
    own("systemctl", "--user", "stop", "spark-modeld.service", "spark-modeld.socket")
    own("systemctl", "--user", "stop", unit("mine"))
    assert boxes.containers(all=True) <= {"sglang-named", "sglang-scripted"}
    host.run("loginctl", "disable-linger", "spark")
    host.run("systemctl", "stop", f"user@{uid}.service")


def test_the_host_goes_down_with_a_model_in_a_container(boxes: Boxes) -> None:
    """The last one: docker has to be there for as long as the container is being stopped."""
    boxes.serve("image-a")
    assert {"docker.service", "spark-model-clean@image-a.service"} <= set(
        boxes.host.show(unit("image-a"), "After").split()
    )
    boxes.host.run("systemctl", "poweroff")
    boxes.host.await_end()
