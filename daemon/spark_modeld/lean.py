"""Imported before anything that imports aiohttp: makes that cheap.

When it is imported, aiohttp builds a TLS context with every certificate authority of the machine, a sixth of the
daemon's whole start. Few engines speak https; those get a context of their own (``backends/probe.py``). Here the
authorities are looked for where there are none.
"""

from __future__ import annotations

import os

_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")

_before = {name: os.environ.get(name) for name in _VARIABLES}
os.environ.update(SSL_CERT_FILE=os.devnull, SSL_CERT_DIR=os.devnull)
try:
    import aiohttp  # noqa: F401
finally:
    for _name, _value in _before.items():
        if _value is None:
            del os.environ[_name]
        else:
            os.environ[_name] = _value
