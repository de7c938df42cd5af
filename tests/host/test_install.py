"""What make install puts onto a machine."""

from __future__ import annotations

import re

import pytest

from support.spark import SOURCE, SparkHost

pytestmark = pytest.mark.host

SYSTEM_UNITS = (
    "spark-modeld.service",
    "spark-modeld.socket",
    "spark-modeld-http.socket",
    "spark-modeld-gateway.socket",
    "spark-model@alpha.service",
    "spark-models.slice",
)


def test_install_is_repeatable_and_keeps_configuration(installed_host: SparkHost) -> None:
    installed_host.settings('[log]\nlevel = "debug"\n')
    installed_host.tiny("alpha", port=8001)
    before = installed_host.run("sh", "-c", "find /usr/lib/spark-modeld /etc/spark-modeld | sort").stdout
    said = installed_host.run("make", "-C", SOURCE, "install").stderr
    after = installed_host.run("sh", "-c", "find /usr/lib/spark-modeld /etc/spark-modeld | sort").stdout
    assert after == before
    assert "/etc/spark-modeld/models.d/alpha.toml" in after
    assert installed_host.path("/etc/spark-modeld/spark-modeld.toml").read_text() == '[log]\nlevel = "debug"\n'
    assert "lose access to the GPU" in said


def test_destdir_touches_nothing_else(installed_host: SparkHost) -> None:
    installed_host.run("make", "-C", SOURCE, "install", "DESTDIR=/tmp/destination")
    installed = installed_host.run("find", "/tmp/destination", "-type", "f").stdout.split()
    assert "/tmp/destination/usr/lib/systemd/system/spark-model@.service" in installed
    assert "/tmp/destination/etc/spark-modeld/spark-modeld.toml" in installed
    assert "/tmp/destination/usr/share/man/man1/spark-modelctl.1.gz" in installed
    assert not [name for name in installed if "/tmp/destination/usr/lib/spark-modeld/" in name and "build/" in name]


def test_the_manual_is_found(installed_host: SparkHost) -> None:
    pages = {"1": "spark-modelctl", "5": "spark-model", "8": "spark-modeld"}
    for section, page in pages.items():
        where = installed_host.run("man", "--where", section, page).stdout.strip()
        assert where == f"/usr/share/man/man{section}/{page}.{section}.gz"
    assert "spark-modeld.toml.5.gz" in installed_host.run("man", "--where", "5", "spark-modeld.toml").stdout


def test_the_links_between_the_documents_lead_somewhere(installed_host: SparkHost) -> None:
    folder = installed_host.path("/usr/share/doc/spark-modeld")
    links = set(re.findall(r"\]\(([^)#:\s]+)\)", (folder / "README.md").read_text()))
    assert {"guide/moving-over.md", "DESIGN.md", "CHANGELOG.md"} <= links
    assert [link for link in links if not (folder / link).exists()] == []


def test_users(installed_host: SparkHost) -> None:
    def identity(user: str, option: str) -> str:
        return installed_host.run("id", option, "-n", user).stdout.strip()

    assert identity("spark-modeld", "-g") == "spark-modeld-secrets"
    assert set(identity("spark-modeld", "-G").split()) == {"spark-modeld-secrets", "systemd-journal"}
    assert identity("spark-model", "-G") == "spark-model"
    assert "spark-modeld:" in installed_host.run("getent", "group", "spark-modeld").stdout


def test_units_are_clean(installed_host: SparkHost) -> None:
    verified = installed_host.run("systemd-analyze", "verify", *SYSTEM_UNITS)
    assert verified.stderr + verified.stdout == ""
    verified = installed_host.run("systemd-analyze", "--user", "verify", *SYSTEM_UNITS, check=False)
    assert "spark-model" not in verified.stderr + verified.stdout


def test_everything_but_the_state_is_roots(installed_host: SparkHost) -> None:
    folders = (
        "/usr/lib/spark-modeld",
        "/etc/spark-modeld",
        "/run/spark-models",
        "/usr/share/polkit-1/rules.d/50-spark-modeld.rules",
    )
    foreign = installed_host.run(
        "find", *folders, "(", "!", "-user", "root", "-o", "-perm", "/022", ")", "!", "-type", "l"
    )
    assert foreign.stdout == ""


def test_programs_load_only_what_was_installed(installed_host: SparkHost) -> None:
    code = "import sys, aiohttp, msgspec, pydbus, gi, spark_modeld; print(aiohttp.__file__, spark_modeld.__file__)"
    found = installed_host.run("/usr/lib/spark-modeld/venv/bin/python3", "-I", "-c", code).stdout.split()
    assert all(path.startswith("/usr/lib/spark-modeld/venv/lib/") for path in found)
