"""The tokens store: verifies what callers present, and issues and revokes tokens.

A token is ``smd_<id>_<secret>``, or a secret from elsewhere. Both carry 128 bits of chance at least,
so one fast hash protects them; the file never holds the secret itself, and neither does any message.
"""

from __future__ import annotations

import fcntl
import grp
import hashlib
import hmac
import math
import os
import re
import secrets
import string
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from spark_modeld import durable
from spark_modeld.config.findings import Finding, invalid_config
from spark_modeld.config.reader import read_bounded
from spark_modeld.config.token_file import TOKEN_ID, TOKEN_NAME, Scope, Token, parse, render
from spark_modeld.core.errors import Code, refuse

TOKENS_FILE = "tokens.toml"
SECRETS_GROUP = "spark-modeld-secrets"

_OURS = re.compile(rf"smd_({TOKEN_ID})_[A-Za-z0-9]+")
# No underscore: it parts the pieces of a token.
_ID_ALPHABET = string.ascii_lowercase + string.digits
_SECRET_ALPHABET = string.ascii_letters + string.digits
_SECRET_LENGTH = 32  # 190 bits
_FOREIGN = re.compile(r"[!-~]{16,512}")
_LEAST_BITS = 128
_ALPHABETS = ("0123456789abcdef", "0123456789ABCDEF", _ID_ALPHABET, _SECRET_ALPHABET)
_NOBODY = "sha256:" + "0" * 64
# Two writes within one tick of the file system's clock look the same; a file that young is read again next time.
_TICK_NS = 50_000_000


class TokenStore:
    """``tokens.toml``, read again whenever it changed.

    A file that is broken, unreadable or writable by everybody opens nothing; ``findings`` says what is wrong with it.
    """

    def __init__(self, path: Path, *, group: str = SECRETS_GROUP) -> None:
        self._path = path
        self._group = group
        self._signature: tuple[int, ...] | None = None
        self._tokens: dict[str, Token] = {}
        self._by_hash: dict[str, Token] = {}
        self._findings: tuple[Finding, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the file as it is now. While there is anything, no token is good."""
        self._refresh()
        return self._findings

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Every token, expired ones too, in the file's order."""
        self._refresh()
        return tuple(self._tokens.values())

    def verify(self, token: str, now: float | None = None) -> Token | None:
        """The token a caller presented; None if it is unknown, wrong or expired at ``now`` (Unix seconds)."""
        self._refresh()
        digest = _digest(token)
        match = _OURS.fullmatch(token)
        entry = self._tokens.get(match[1]) if match is not None else None
        if entry is None:
            entry = self._by_hash.get(digest)
        # Something to compare with in any case, so that the time taken does not tell whether an id exists.
        good = hmac.compare_digest(digest, entry.hash if entry is not None else _NOBODY)
        if entry is None or not good or entry.expired(time.time() if now is None else now):
            return None
        return entry

    def issue(
        self,
        name: str,
        *,
        scopes: Iterable[Scope] = (Scope.INFERENCE,),
        models: Iterable[str] | None = None,
        may_switch: bool = True,
        expires: float | None = None,
        note: str = "",
        secret: str | None = None,
        now: float | None = None,
    ) -> tuple[Token, str]:
        """Adds a token and writes the file; returns it and its plaintext, which is nowhere else.

        ``secret`` imports one from elsewhere. SparkError ``invalid-request`` for a name that is taken or a weak
        secret, ``invalid-config`` while the file is broken. OSError when the file cannot be written.
        """
        if re.fullmatch(TOKEN_NAME, name) is None:
            raise refuse(Code.INVALID_REQUEST, "A token's name is 1 to 64 letters, digits, spaces and . _ @ + -.")
        if secret is not None:
            _check_strength(secret)
        with self._changing() as tokens:
            if any(token.name == name for token in tokens.values()):
                raise refuse(Code.INVALID_REQUEST, f"There is a token named {name!r} already; revoke it first.")
            token_id = _new_id(tokens)
            plaintext = secret if secret is not None else f"smd_{token_id}_{_chance(_SECRET_ALPHABET, _SECRET_LENGTH)}"
            token = Token(
                id=token_id,
                name=name,
                hash=_digest(plaintext),
                scopes=frozenset(scopes),
                models=frozenset(models) if models is not None else None,
                may_switch=may_switch,
                expires=expires,
                note=note,
                created=float(int(time.time() if now is None else now)),
            )
            if any(hmac.compare_digest(token.hash, other.hash) for other in tokens.values()):
                raise refuse(Code.INVALID_REQUEST, "That secret is a token already; revoke it first.")
            tokens[token_id] = token
        return token, plaintext

    def revoke(self, id_or_name: str) -> Token:
        """Takes a token out of the file. SparkError ``not-found``, ``invalid-config``; OSError."""
        with self._changing() as tokens:
            found = [token for token in tokens.values() if id_or_name in {token.id, token.name}]
            if not found:
                raise refuse(Code.NOT_FOUND, f"There is no token {id_or_name!r}; see `spark-modelctl token list`.")
            token = next((token for token in found if token.id == id_or_name), found[0])
            del tokens[token.id]
        return token

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Token]]:
        """The tokens to be changed and then written, with every other writer kept out."""
        path = Path(os.path.realpath(self._path))
        with _locked(path.parent):
            self._signature = None
            self._refresh()
            if self._findings:
                raise invalid_config(self._findings)
            tokens = dict(self._tokens)
            yield tokens
            content = self._rendered(tokens)
            mode, owner = self._ownership(path)
            durable.replace_file(path, content, mode=mode, owner=owner)
            self._signature = None

    def _rendered(self, tokens: dict[str, Token]) -> bytes:
        """The new content. SparkError ``invalid-request`` for what the file cannot say, such as a note of two lines."""
        try:
            content = render(tokens)
        except (ValueError, OverflowError, OSError) as error:  # a time that no calendar has
            raise refuse(Code.INVALID_REQUEST, f"The token cannot be written: {error}") from error
        findings = parse(str(self._path), content)[1]
        if findings:
            raise refuse(Code.INVALID_REQUEST, "; ".join(f"{finding.key}: {finding.message}" for finding in findings))
        return content

    def _ownership(self, path: Path) -> tuple[int, tuple[int, int] | None]:
        """Mode and owner of the file to be written: those of the old one, else what the contract says."""
        try:
            old = path.stat()
        except FileNotFoundError:
            pass
        else:
            return old.st_mode & 0o7777, (old.st_uid, old.st_gid)
        if os.geteuid() != 0:
            return 0o600, None
        try:
            return 0o640, (0, grp.getgrnam(self._group).gr_gid)
        except KeyError:
            return 0o600, None

    def _refresh(self) -> None:
        try:
            status = os.stat(self._path)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            self._take(None, {}, () if missing else (self._finding(f"cannot be read: {error.strerror}"),))
            return
        signature = (
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
            status.st_dev,
            status.st_size,
            status.st_mode,
        )
        if signature == self._signature:
            return
        # Taken before reading: a change in between is seen the next time.
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _TICK_NS
        self._take(signature if settled else None, *self._read(status.st_mode))

    def _read(self, mode: int) -> tuple[dict[str, Token], tuple[Finding, ...]]:
        if mode & 0o002:
            return {}, (self._finding("must not be writable by everybody; `chmod o-w` it and check what it says"),)
        try:
            tokens, findings = parse(str(self._path), read_bounded(self._path))
        except OSError as error:
            return {}, (self._finding(f"cannot be read: {error.strerror or error}"),)
        return tokens, tuple(findings)

    def _finding(self, message: str) -> Finding:
        return Finding(str(self._path), "", message)

    def _take(self, signature: tuple[int, ...] | None, tokens: dict[str, Token], findings: tuple[Finding, ...]) -> None:
        self._signature, self._tokens, self._findings = signature, tokens, findings
        self._by_hash = {token.hash: token for token in tokens.values()}


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _digest(secret: str) -> str:
    return "sha256:" + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _chance(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def _new_id(taken: Iterable[str]) -> str:
    while (token_id := _chance(_ID_ALPHABET, 8)) in taken:
        pass
    return token_id


def _check_strength(secret: str) -> None:
    """Refuses an imported secret that cannot hold 128 bits: an upper bound, from its length and alphabet."""
    weak = refuse(
        Code.INVALID_REQUEST,
        "The secret must hold 128 bits at least, in 16 to 512 printable ASCII characters without spaces; "
        "`openssl rand -hex 32` makes one.",
    )
    if _FOREIGN.fullmatch(secret) is None or len(set(secret)) < 8:
        raise weak
    size = next((len(alphabet) for alphabet in _ALPHABETS if set(secret) <= set(alphabet)), 94)
    if len(secret) * math.log2(size) < _LEAST_BITS:
        raise weak
