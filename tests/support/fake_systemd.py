"""A scripted org.freedesktop.systemd1, in its own process: ``fake_systemd.py ADDRESS``.

One JSON command per line on stdin, one JSON answer per line on stdout; ``Fake`` has a method for each command.
A plan changes the next call of one method: ``error``/``message``, ``hang`` (for good), ``hold`` (until ``answer``),
``result`` (of the job), ``signal_first`` (JobRemoved before the reply), ``quiet`` (no JobRemoved).
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from gi.repository import Gio, GLib

NAME = "org.freedesktop.systemd1"
ROOT = "/org/freedesktop/systemd1"
IN = '<arg type="s" direction="in"/>'
XML = f"""<node>
<interface name="org.freedesktop.systemd1.Manager">
  <method name="Subscribe"/>
  <method name="Reload"/>
  <method name="LoadUnit">{IN}<arg type="o" direction="out"/></method>
  <method name="ResetFailedUnit">{IN}</method>
  <method name="RefUnit">{IN}</method>
  <method name="UnrefUnit">{IN}</method>
  <method name="StartUnit">{IN}{IN}<arg type="o" direction="out"/></method>
  <method name="StopUnit">{IN}{IN}<arg type="o" direction="out"/></method>
  <method name="KillUnit">{IN}{IN}<arg type="i" direction="in"/></method>
  <method name="GetUnitProcesses">{IN}<arg type="a(sus)" direction="out"/></method>
  <method name="GetUnitByPID"><arg type="u" direction="in"/><arg type="o" direction="out"/></method>
  <signal name="JobNew"><arg type="u"/><arg type="o"/><arg type="s"/></signal>
  <signal name="JobRemoved"><arg type="u"/><arg type="o"/><arg type="s"/><arg type="s"/></signal>
  <signal name="Reloading"><arg type="b"/></signal>
</interface>
<interface name="org.freedesktop.DBus.Properties">
  <method name="GetAll">{IN}<arg type="a{{sv}}" direction="out"/></method>
  <signal name="PropertiesChanged"><arg type="s"/><arg type="a{{sv}}"/><arg type="as"/></signal>
</interface>
</node>"""
MANAGER_XML, PROPERTIES_XML = Gio.DBusNodeInfo.new_for_xml(XML).interfaces
TYPES = {"MainPID": "u", "ExecMainStatus": "i", "NeedDaemonReload": "b", "Names": "as", "DropInPaths": "as"}
UNIT = {"LoadState": "loaded", "ActiveState": "inactive", "SubState": "dead", "Result": "success", "MainPID": 0}


class Fake:
    def __init__(self, address: str) -> None:
        self.address = address
        self.units: dict[str, dict[str, Any]] = {}
        self.aliases: dict[str, str] = {}
        self.plans: dict[str, list[dict[str, Any]]] = {}
        self.calls: list[list[Any]] = []
        self.hanging: list[Any] = []
        self.held: list[tuple[str, str, list[Any], dict[str, Any], Any]] = []
        self.state = "running"
        self.folders: list[str] = []
        self.job = 0
        self.open()

    # -- the connection

    def open(self) -> None:
        flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        self.con = Gio.DBusConnection.new_for_address_sync(self.address, flags, None, None)
        self.con.set_exit_on_close(True)
        self.registered: set[str] = set()
        self.con.register_object(ROOT, MANAGER_XML, self.on_call, None, None)
        self.con.register_object(ROOT, PROPERTIES_XML, self.on_call, None, None)
        for name in self.units:
            self.register(name)

    def register(self, name: str) -> str:
        path = self.path(name)
        if path not in self.registered:
            self.registered.add(path)
            self.con.register_object(path, PROPERTIES_XML, self.on_call, None, None)
        return path

    def name(self, what: str) -> None:
        args = GLib.Variant("(su)", (NAME, 4)) if what == "RequestName" else GLib.Variant("(s)", (NAME,))
        bus = "org.freedesktop.DBus"
        self.con.call_sync(bus, "/", bus, what, args, None, Gio.DBusCallFlags.NONE, 5000, None)

    @staticmethod
    def path(name: str) -> str:
        return f"{ROOT}/unit/" + "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in name)

    def emit(self, path: str, interface: str, signal: str, signature: str, *values: Any) -> None:
        self.con.emit_signal(None, path, interface, signal, GLib.Variant(signature, values))

    def emit_manager(self, signal: str, signature: str, *values: Any) -> None:
        self.emit(ROOT, f"{NAME}.Manager", signal, signature, *values)

    # -- calls from the bus

    def on_call(
        self, _con: Any, _sender: str, path: str, _iface: str, method: str, params: Any, invocation: Any
    ) -> None:
        args = list(params.unpack())
        self.calls.append([method, *args])
        plans = self.plans.get(method) or [{}]
        plan = plans.pop(0)
        if plan.get("hang"):
            self.hanging.append(invocation)
        elif plan.get("hold"):
            self.held.append((method, path, args, plan, invocation))
        else:
            self.answer(method, path, args, plan, invocation)

    def answer(self, method: str, path: str, args: list[Any], plan: dict[str, Any], invocation: Any) -> None:
        if "error" in plan:
            invocation.return_dbus_error(plan["error"], plan.get("message", "scripted"))
            return
        if method in {"StartUnit", "StopUnit"}:
            self.run_job(method, args[0], plan, invocation)
            return
        reply = getattr(self, f"on_{method}", lambda *_: None)(path, *args)
        invocation.return_value(reply)

    def run_job(self, method: str, unit: str, plan: dict[str, Any], invocation: Any) -> None:
        self.job += 1
        job = f"{ROOT}/job/{self.job}"
        result = plan.get("result", "done")
        ended = ("JobRemoved", "(uoss)", self.job, job, self.aliases.get(unit, unit), result)
        if plan.get("signal_first"):
            self.emit_manager(*ended)
        invocation.return_value(GLib.Variant("(o)", (job,)))
        if plan.get("quiet"):
            return
        now = ("active", "running") if method == "StartUnit" and result == "done" else ("inactive", "dead")
        self.do_set(unit, {"ActiveState": now[0], "SubState": now[1], "MainPID": self.job}, True)
        if not plan.get("signal_first"):
            self.emit_manager(*ended)

    def on_LoadUnit(self, _path: str, name: str) -> Any:
        real = self.aliases.get(name, name)
        if real not in self.units:
            self.units[real] = {**UNIT, "LoadState": "not-found"}
        return GLib.Variant("(o)", (self.register(real),))

    def on_GetUnitProcesses(self, _path: str, name: str) -> Any:
        return GLib.Variant("(a(sus))", ([("/a", 41, "sleep"), ("/a/b", 42, "")],))

    def on_GetUnitByPID(self, _path: str, _pid: int) -> Any:
        return GLib.Variant("(o)", (self.register(next(iter(self.units))),))

    def on_GetAll(self, path: str, _interface: str) -> Any:
        if path == ROOT:
            values = {"SystemState": GLib.Variant("s", self.state), "UnitPath": GLib.Variant("as", self.folders)}
            return GLib.Variant("(a{sv})", (values,))
        name = next(n for n in self.units if self.path(n) == path)
        return GLib.Variant("(a{sv})", (self.variants(name, self.units[name]),))

    @staticmethod
    def variants(name: str, values: dict[str, Any]) -> dict[str, Any]:
        job = values.get("Job", 0)
        found = {k: GLib.Variant(TYPES.get(k, "s"), v) for k, v in values.items() if k != "Job"}
        found["Job"] = GLib.Variant("(uo)", (job, f"{ROOT}/job/{job}" if job else "/"))
        return {**found, "Id": GLib.Variant("s", name)}

    # -- commands of the test

    def do_set(self, unit: str, values: dict[str, Any], emit: bool) -> None:
        real = self.aliases.get(unit, unit)
        self.units.setdefault(real, dict(UNIT)).update(values)
        path = self.register(real)
        if emit:
            changed = self.variants(real, values)
            self.emit(
                path, "org.freedesktop.DBus.Properties", "PropertiesChanged", "(sa{sv}as)", f"{NAME}.Unit", changed, []
            )

    def do_burst(self, unit: str, count: int) -> None:
        for number in range(1, count + 1):
            self.do_set(unit, {"MainPID": number}, True)

    def do_alias(self, name: str, unit: str) -> None:
        self.aliases[name] = unit

    def do_plan(self, method: str, plans: list[dict[str, Any]]) -> None:
        self.plans[method] = plans

    def do_state(self, value: str) -> None:
        self.state = value

    def do_folders(self, paths: list[str]) -> None:
        self.folders = paths

    def do_job_new(self, unit: str) -> None:
        self.emit_manager("JobNew", "(uos)", 7, f"{ROOT}/job/7", unit)

    def do_job_removed(self, unit: str) -> None:
        self.emit_manager("JobRemoved", "(uoss)", 7, f"{ROOT}/job/7", unit, "done")

    def do_reloading(self, active: bool) -> None:
        self.emit_manager("Reloading", "(b)", active)

    def do_own(self) -> None:
        self.name("RequestName")

    def do_release(self) -> None:
        self.name("ReleaseName")

    def do_reexec(self) -> None:
        self.con.set_exit_on_close(False)
        self.con.close_sync(None)
        self.open()
        self.name("RequestName")

    def do_answer(self) -> None:
        held, self.held = self.held, []
        for each in held:
            self.answer(*each)

    def do_calls(self) -> list[list[Any]]:
        calls, self.calls = self.calls, []
        return calls


def main() -> None:
    fake = Fake(sys.argv[1])

    def run(line: str) -> bool:
        command = json.loads(line)
        answer = getattr(fake, "do_" + command.pop("do"))(**command)
        fake.con.flush_sync(None)
        print(json.dumps(answer), flush=True)
        return False

    def read() -> None:
        for line in sys.stdin:
            GLib.idle_add(run, line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    print("null", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
