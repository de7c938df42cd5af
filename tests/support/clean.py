"""A throwaway host over a clean root of a distribution, and the packages that are tried on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from support import host

REPOSITORY = Path(__file__).resolve().parents[2]
ROOTS = REPOSITORY / "build" / "roots"
PACKAGES = "/opt/packages"
ENGINES = "/opt/engines"
HOLDS = "/run/holds"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
TOOLS = ("mmdebstrap", "dpkg-deb", "lintian", "pipx", "curl", "x86_64-linux-gnu-strip", "aarch64-linux-gnu-strip")


def why_not() -> str | None:
    """Why this machine cannot try packages on clean roots; None if it can."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)}: packaging/build package"
    if os.uname().machine not in ARCHITECTURES:
        return "needs a machine of an architecture that packages are built for"
    return host.why_not()


def script(*command: str, cwd: Path = REPOSITORY, **environment: str) -> str:
    """What a script of the repository prints on standard output. AssertionError with its words if it fails."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def own_target(suite: str) -> str:
    """What packaging/deb builds for this machine's kind and a distribution."""
    return f"{suite}-{ARCHITECTURES[os.uname().machine]}"


def build(target: str, *, cwd: Path = REPOSITORY, **environment: str) -> Path:
    """The package, built by packaging/deb."""
    return cwd / script("packaging/deb", target, cwd=cwd, **environment)


def variant(package: Path, built: Path, *, version: str, more: dict[str, str]) -> None:
    """The package as another build of it could be: with another version, and more in some files, by pattern."""
    tree = built.with_suffix("")
    script("dpkg-deb", "-R", str(package), str(tree))
    control = tree / "DEBIAN" / "control"
    lines = control.read_text().splitlines()
    named = [f"Version: {version}" if line.startswith("Version: ") else line for line in lines]
    control.write_text("\n".join([*named, ""]))
    for pattern, content in more.items():
        with next(tree.glob(pattern), tree / pattern).open("a") as file:
            file.write(content)
    script("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(built))
    shutil.rmtree(tree)


def engine(model: str, *, port: int) -> str:
    """The catalog entry of ``scripted_engine.py``, run by the distribution's Python."""
    command = ["/usr/bin/python3", "-S", f"{ENGINES}/scripted_engine.py", "--name", model, "--port", str(port)]
    lines = ['engine = "openai"', f'url = "http://127.0.0.1:{port}"', 'memory = "64MiB"', "[launch]"]
    return "\n".join([*lines, f"command = {json.dumps(command)}", ""])


class CleanHost(host.Host):
    """The host. ``packages`` is a folder whose packages it can install; it has no network."""

    def __init__(self, suite: str, packages: Path) -> None:
        binds = {PACKAGES: packages, ENGINES: REPOSITORY / "tests" / "support"}
        super().__init__(root=ROOTS / suite, binds=binds)

    def apt(self, *words: str) -> str:
        """What apt-get says while it does this."""
        return self.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q", *words).stdout

    def ctl(self, *words: str, user: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """spark-modelctl."""
        return self.run("spark-modelctl", *words, user=user, check=check)

    def status(self) -> Any:
        """``spark-modelctl status --json``."""
        return json.loads(self.ctl("status", "--json").stdout)

    def outside(self, *argv: str) -> list[str]:
        """The command line that runs a program of this machine in the host's network."""
        return ["nsenter", "-t", str(self.pid), "-n", "--", *argv]

    def chat(self, token: str, **body: Any) -> list[str]:
        """The command line of a chat through the gateway."""
        asked = {"messages": [{"role": "user", "content": "Who are you?"}], **body}
        return self.outside(
            *("curl", "--silent", "--show-error", "--fail-with-body", "--no-buffer", "--max-time", "100"),
            *("-H", f"Authorization: Bearer {token}", "-H", "Content-Type: application/json"),
            *("-d", json.dumps(asked), "http://127.0.0.1:30101/v1/chat/completions"),
        )

    def ask(self, token: str, model: str) -> str:
        """What the model says, asked through the gateway."""
        return str(json.loads(script(*self.chat(token, model=model)))["choices"][0]["message"]["content"])

    def modes(self, *paths: str) -> dict[str, str]:
        """Mode, owner and group of each path; "" for one that is not there."""
        return {path: self.run("stat", "-c", "%a %U:%G", path, check=False).stdout.strip() for path in paths}

    def tree(self) -> set[str]:
        """Every path of the root but those below the kernel's and the boot's own mounts."""
        return set(self.run("find", "/", "-xdev").stdout.splitlines())

    def owned(self) -> set[str]:
        """Every path that a package of the distribution has installed."""
        listed = self.run("sh", "-c", "cat /var/lib/dpkg/info/*.list").stdout.splitlines()
        return {f"/usr{path}" if path.startswith(("/bin", "/lib", "/sbin")) else path for path in listed}
