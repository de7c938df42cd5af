"""tokens.toml: secrets only as hashes, changes seen at once, broken means closed."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from spark_modeld.config.token_file import Scope
from spark_modeld.config.tokens import TokenStore
from spark_modeld.core.errors import Code, SparkError

pytestmark = pytest.mark.unit

FOREIGN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "tokens.toml", group="no-such-group")


def refused(error: pytest.ExceptionInfo[SparkError]) -> Code:
    return error.value.problem.code


def test_no_file_is_no_token_and_no_finding(store: TokenStore) -> None:
    assert store.verify("smd_a_b") is None
    assert store.findings == ()
    assert store.tokens == ()


def test_what_is_issued_is_verified_by_another_store(store: TokenStore, tmp_path: Path) -> None:
    other = TokenStore(tmp_path / "tokens.toml")
    assert other.verify("x") is None
    token, plaintext = store.issue(
        "lap top",
        scopes=[Scope.CONTROL, Scope.OBSERVE],
        models=["qwen"],
        may_switch=False,
        expires=2e9,
        note="for Cursor",
        now=1000.0,
    )
    assert plaintext.startswith(f"smd_{token.id}_")
    assert len(plaintext.removeprefix(f"smd_{token.id}_")) == 32
    assert other.verify(plaintext) == token
    assert (token.models, token.may_switch, token.expires, token.created) == (frozenset({"qwen"}), False, 2e9, 1000.0)
    assert token.scopes == {"control", "observe"}


def test_nobody_gets_in_with_anything_else(store: TokenStore) -> None:
    token, plaintext = store.issue("a")
    store.issue("b", secret=FOREIGN)
    wrong = [
        plaintext[:-1],
        plaintext + "x",
        plaintext.upper(),
        plaintext + "\n",
        f"smd_{token.id}_",
        f"smd_{token.id}_" + "a" * 32,
        token.hash,
        token.id,
        FOREIGN + " ",
        "",
        "\0",
        "ü\udcff",
        "x" * 100_000,
    ]
    assert [store.verify(secret) for secret in wrong] == [None] * len(wrong)
    assert store.verify(plaintext) == token


def test_expiry(store: TokenStore) -> None:
    token, plaintext = store.issue("a", expires=2000.0)
    assert store.verify(plaintext, now=1999.9) == token
    assert store.verify(plaintext, now=2000.0) is None
    assert store.verify(plaintext) is None
    assert store.tokens == (token,)


def test_a_foreign_secret(store: TokenStore) -> None:
    token, plaintext = store.issue("old", secret=FOREIGN)
    assert plaintext == FOREIGN
    assert store.verify(FOREIGN) == token


def test_a_token_of_ours_may_be_imported_on_another_machine(store: TokenStore, tmp_path: Path) -> None:
    _, plaintext = store.issue("a")
    elsewhere = TokenStore(tmp_path / "elsewhere.toml")
    token, _ = elsewhere.issue("b", secret=plaintext)
    assert elsewhere.verify(plaintext) == token


@pytest.mark.parametrize(
    "secret", ["", "sk-local", "a" * 64, "0123456789abcdef", FOREIGN[:-1], "x y" * 30, "ü" * 40, "a" * 600]
)
def test_weak_secrets_are_refused_and_not_repeated(store: TokenStore, secret: str) -> None:
    with pytest.raises(SparkError) as error:
        store.issue("a", secret=secret)
    assert refused(error) is Code.INVALID_REQUEST
    assert not secret or secret not in str(error.value)
    assert store.tokens == ()


@pytest.mark.parametrize("name", ["", " a", "a\nb", "ü", "a" * 65])
def test_names_that_cannot_go_into_a_log(store: TokenStore, name: str) -> None:
    with pytest.raises(SparkError) as error:
        store.issue(name)
    assert refused(error) is Code.INVALID_REQUEST


def test_a_name_and_a_secret_are_taken_once(store: TokenStore) -> None:
    store.issue("a", secret=FOREIGN)
    for name, secret in (("a", None), ("b", FOREIGN)):
        with pytest.raises(SparkError) as error:
            store.issue(name, secret=secret)
        assert refused(error) is Code.INVALID_REQUEST
    assert len(store.tokens) == 1


def test_what_the_file_cannot_say_leaves_it_as_it_was(store: TokenStore, tmp_path: Path) -> None:
    store.issue("a")
    before = (tmp_path / "tokens.toml").read_bytes()
    with pytest.raises(SparkError):
        store.issue("b", note="two\nlines")
    with pytest.raises(SparkError):
        store.issue("b", expires=1e300)
    with pytest.raises(SparkError):
        store.issue("b", models=["a b"])
    assert (tmp_path / "tokens.toml").read_bytes() == before


def test_revoked_by_id_or_name(store: TokenStore) -> None:
    a, a_plain = store.issue("a")
    b, b_plain = store.issue("b")
    assert store.revoke(a.id) == a
    assert store.verify(a_plain) is None
    assert store.verify(b_plain) == b
    assert store.revoke("b") == b
    assert store.verify(b_plain) is None
    with pytest.raises(SparkError) as error:
        store.revoke("b")
    assert refused(error) is Code.NOT_FOUND


def test_the_secret_is_nowhere(store: TokenStore, tmp_path: Path) -> None:
    token, plaintext = store.issue("a")
    secret = plaintext.rpartition("_")[2]
    for text in (repr(token), repr(store), (tmp_path / "tokens.toml").read_text()):
        assert secret not in text
    assert token.hash not in repr(token)


@pytest.mark.parametrize(
    "spoil",
    [
        "[tokens.x",
        "[token.a]\n",
        "[tokens]\na = 1\n",
        '[tokens."A"]\nname = "a"\nhash = "sha256:%s"\nscopes = ["control"]\n' % ("0" * 64),
        '[tokens.b]\nname = "b"\nhash = "md5:1"\nscopes = ["control"]\n',
        '[tokens.b]\nname = "b"\nhash = "sha256:%s"\nscope = ["control"]\n' % ("0" * 64),
        '[tokens.b]\nname = "b"\nhash = "sha256:%s"\nscopes = ["root"]\n' % ("0" * 64),
        '[tokens.b]\nname = "b"\nhash = "sha256:%s"\nscopes = ["control"]\nexpires = 2099-01-01\n' % ("0" * 64),
        "\0",
    ],
)
def test_a_broken_file_lets_nobody_in(store: TokenStore, tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "tokens.toml"
    token, plaintext = store.issue("a")
    good = path.read_text()
    path.write_text(good + spoil)
    assert store.verify(plaintext) is None
    assert store.findings
    assert all(finding.file == str(path) for finding in store.findings)
    with pytest.raises(SparkError) as error:
        store.issue("c")
    assert refused(error) is Code.INVALID_CONFIG
    assert path.read_text() == good + spoil
    path.write_text(good)
    assert store.findings == ()
    assert store.verify(plaintext) == token


def test_a_file_anybody_can_write_lets_nobody_in(store: TokenStore, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    token, plaintext = store.issue("a")
    path.chmod(0o646)
    assert store.verify(plaintext) is None
    assert "writable by everybody" in store.findings[0].message
    path.chmod(0o640)
    assert store.verify(plaintext) == token


def test_a_directory_in_its_place_lets_nobody_in(store: TokenStore, tmp_path: Path) -> None:
    _, plaintext = store.issue("a")
    (tmp_path / "tokens.toml").unlink()
    (tmp_path / "tokens.toml").mkdir()
    assert store.verify(plaintext) is None
    assert "regular file" in store.findings[0].message


def test_changes_are_seen_at_once(store: TokenStore, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    token, plaintext = store.issue("a")
    good = path.read_bytes()
    for _ in range(10):
        path.write_bytes(good.replace(token.hash.encode(), b"sha256:" + b"0" * 64))
        assert store.verify(plaintext) is None
        path.write_bytes(good)
        assert store.verify(plaintext) == token


def test_changes_are_seen_that_stat_cannot_tell(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place, same size, within one tick of the file system's clock: only a file that is older may be believed."""
    path = tmp_path / "tokens.toml"
    token, plaintext = store.issue("a")
    coarse = os.stat(path)
    with monkeypatch.context() as patch:  # os.stat is pytest's, too: nothing may fail in here
        patch.setattr("spark_modeld.config.tokens._TICK_NS", 10**18)
        patch.setattr(os, "stat", lambda path: coarse)
        before = store.verify(plaintext)
        path.write_bytes(path.read_bytes().replace(token.hash.encode(), b"sha256:" + b"0" * 64))
        after = store.verify(plaintext)
    assert (before, after) == (token, None)


def test_an_unchanged_file_is_not_read_again(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, plaintext = store.issue("a")
    monkeypatch.setattr("spark_modeld.config.tokens._TICK_NS", -(10**18))  # as if the file were old
    assert store.verify(plaintext) == token
    monkeypatch.setattr("spark_modeld.config.tokens.read_bounded", lambda path: pytest.fail("read again"))
    assert store.verify(plaintext) == token


def test_a_new_file_is_private(store: TokenStore, tmp_path: Path) -> None:
    store.issue("a")
    assert stat.S_IMODE((tmp_path / "tokens.toml").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_a_new_file_belongs_to_root_and_the_secrets_group(tmp_path: Path) -> None:
    TokenStore(tmp_path / "tokens.toml", group="daemon").issue("a")
    status = (tmp_path / "tokens.toml").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 1, 0o640)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_owner_and_mode_are_kept_and_a_link_stays_one(store: TokenStore, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "t.toml").touch(0o640)
    os.chown(real / "t.toml", 12, 34)
    os.chmod(real / "t.toml", 0o440)
    (tmp_path / "tokens.toml").symlink_to(real / "t.toml")
    _, plaintext = store.issue("a")
    status = (real / "t.toml").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12, 34, 0o440)
    assert (tmp_path / "tokens.toml").is_symlink()
    assert store.verify(plaintext) is not None


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"

    def add(prefix: str) -> None:
        mine = TokenStore(path, group="no-such-group")
        for number in range(10):
            mine.issue(f"{prefix}{number}")

    threads = [threading.Thread(target=add, args=(prefix,)) for prefix in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {token.name for token in TokenStore(path).tokens} == {f"{p}{n}" for p in "ab" for n in range(10)}
    assert os.listdir(tmp_path) == ["tokens.toml"]
