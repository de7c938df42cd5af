"""The Spark that README is written on: a stand-in GB10, two checkpoints, and an engine in SGLang's place."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.checkpoints import NVFP4, QWEN3_32B, write
from support.front import add_token
from support.gb10 import Gb10
from support.nvml import GIB, Process
from support.serving import Serving, await_that
from support.spark import SOURCE, SparkHost

ME = "me"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMPRESSED = QWEN3_32B | {
    "quantization_config": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
}
# Takes the command line that README has for SGLang, and dies of a compressed-tensors checkpoint as SGLang does.
SGLANG = f"""\
#!/usr/bin/python3
import argparse, json, os, sys
parser = argparse.ArgumentParser()
for option in ("-m", "--model-path", "--served-model-name", "--port"):
    parser.add_argument(option)
options, _ = parser.parse_known_args()
config = json.load(open(options.model_path + "/config.json"))
method = config.get("quantization_config", {{}}).get("quant_method")
more = ["--dies", "scheme"] if method == "compressed-tensors" else []
words = ["--as", "sglang", "--port", options.port, "--name", options.served_model_name, *more]
os.execv("/usr/bin/python3", ["python3", "-I", "-S", "{SOURCE}/tests/support/vendor_engine.py", *words])
"""


class ReadmeSpark:
    """The host, and what happens on it beside README's commands."""

    def __init__(self, host: SparkHost) -> None:
        self.host = host
        self.gb10 = Gb10(host)
        self.serving = Serving(host)
        self._token: str | None = None

    def arrange(self) -> None:
        """Everything that a Spark has before spark-modeld comes to it."""
        self.gb10.install()
        self.host.run("useradd", "--create-home", ME)
        self.host.write("/opt/sglang/bin/python3", SGLANG, mode=0o755)
        self.host.write("/usr/lib/python3/dist-packages/sglang/launch_server.py", "")
        self.holds(available=110)

    def shell(self, command: str) -> list[str]:
        """How the ordinary user ``me`` types this, in the repository's folder; with sudo it is root's."""
        as_root = "sudo " in command
        drop = [] if as_root else ["setpriv", "--reuid", ME, "--regid", ME, "--init-groups", "--"]
        variables = [f"USER={ME}", "COLUMNS=100", f"TOKEN={self.token()}", f"PATH={PATH}"]
        line = f"cd {SOURCE} && {command.replace('sudo ', '')}"
        return ["env", *variables, *drop, "bash", "-c", line]

    def token(self) -> str:
        """A token as the reader of README has one by then, empty before."""
        if self._token is None and self.host.path("/usr/bin/spark-modelctl").exists():
            self._token = add_token(self.host, "reader")
        return self._token or ""

    def holds(self, *, available: int, model: str | None = None, gpu: int = 0, notebook: int = 0) -> None:
        """The machine's memory from now on, in GiB: available, and held by the model's engine and by a notebook."""
        processes = []
        if model is not None and (pid := self.serving.pid(model)):
            processes.append(Process(pid, gpu * GIB))
        if notebook:
            self.host.run("systemd-run", "--quiet", "--collect", "--unit=notebook", "--uid=me", "sleep", "infinity")
            processes.append(Process(int(self.host.show("notebook.service", "MainPID")), notebook * GIB))
        self.gb10.nvml.processes(processes)
        self.gb10.available(available * GIB)
        if processes:
            # A daemon that has just begun, or a slow machine, has the driver's answer a little later.
            await_that(lambda: self._seen() == available * GIB, "the daemon to see it")

    def _seen(self) -> int | None:
        """What is available by a reading in which the driver has answered."""
        reading = self.host.api("GET", "/api/memory")[1]
        return int(reading["available"]) if reading["processes"] and not reading["stale"] else None


@contextlib.contextmanager
def readme_spark() -> Iterator[ReadmeSpark]:
    """The host, with /srv/models of its own and nothing of ours installed."""
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch)
        models.chmod(0o755)
        write(models / "qwen3-32b-nvfp4", QWEN3_32B, 20_300_000_000, 5, {"hf_quant_config.json": NVFP4})
        write(models / "qwen3-32b-uncensored", COMPRESSED, 20_300_000_000, 5)
        with SparkHost(binds={"/srv/models": models}) as host:
            spark = ReadmeSpark(host)
            spark.arrange()
            yield spark
