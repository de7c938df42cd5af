#!/usr/bin/env python3
"""Loads as SGLang does, in steps that its photographer sets, and says what SGLang says of them.

It is the bad engine otherwise. ``--pose FILE``: goes on with its load up to the step whose number is in the file; to
its end where there is no file.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bad_engine import Engine, arguments, say

SHARDS = 11


class PosingEngine(Engine):
    def __init__(self, pose: Path, argv: list[str]) -> None:
        super().__init__(arguments(argv))
        self.pose = pose

    def _load(self) -> None:
        # sgl-project/sglang, python/sglang/srt/model_executor/model_runner.py and model_loader/weight_utils.py
        self._say(f"server_args=ServerArgs(model_path='/srv/models/{self.options.name}', port={self.options.port})")
        self._say("Load weight begin. avail mem=87.90 GB")
        for shard in range(1, SHARDS + 1):
            self._await(shard)
            percent = 100 * shard // SHARDS
            say(f"Loading safetensors checkpoint shards: {percent:3}% Completed | {shard}/{SHARDS}")
        self._say("Load weight end.")
        self._say("Capture cuda graph begin. This can take up to several minutes.")
        self._await(SHARDS + 1)
        self._say("Capture cuda graph end.")
        self._say("The server is fired up and ready to roll!")

    def _await(self, step: int) -> None:
        while self.pose.exists() and int(self.pose.read_text() or 0) < step:
            time.sleep(0.01)

    def _say(self, text: str) -> None:
        say(time.strftime(f"[%Y-%m-%d %H:%M:%S] {text}"))


if __name__ == "__main__":
    position = sys.argv.index("--pose")
    PosingEngine(Path(sys.argv[position + 1]), [*sys.argv[1:position], *sys.argv[position + 2 :]]).run()
