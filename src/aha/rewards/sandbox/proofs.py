"""Which protections are in force: each is attacked, in a box, before the first program of a model runs in one.

A box that is described well and built wrongly looks like any other. So nothing is read from versions or options:
hostile programs are run, with small limits, and a protection is in force when its attack came to nothing. That
takes about a second, once per process; workers that are forked afterwards inherit the answer.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from aha.rewards.sandbox.box import Limits, Ran, SandboxError, run

PROTECTIONS = {
    "filesystem": "no file of this machine can be read or written, by name or through a link",
    "processes": "no other process can be seen, traced or killed, the parent included",
    "user": "nobody's rights: not root, no capability, no way to gain one",
    "network": "no connection to this machine or to another one",
    "environment": "nothing of our environment, and no open file of ours",
    "system_calls": "a filter refuses sockets, namespaces, tracing and the kernel's rarer doors",
    "fork": "processes and threads are limited",
    "memory": "the memory of each process is limited",
    "family_memory": "and that of all processes together",
    "cpu": "processor time is limited",
    "wall": "so is the time until the end",
    "output": "and what is written to stdout and stderr",
    "file_size": "and the size of a file",
    "disk": "and the disk: bytes, and the number of files",
    "descriptors": "and the number of open files",
}
"""Name -> what it promises."""


@dataclass(frozen=True)
class Protections:
    """What was proved on this machine.

    >>> print(Protections(frozenset({"wall"}), {"fork": "12 processes of 8"}))
    in force: wall; missing: fork (12 processes of 8)
    """

    in_force: frozenset[str]
    missing: dict[str, str] = field(default_factory=dict)
    """Name -> what the attack achieved."""

    def __str__(self) -> str:
        missing = ", ".join(f"{name} ({why})" for name, why in sorted(self.missing.items()))
        return f"in force: {', '.join(sorted(self.in_force))}" + (f"; missing: {missing}" if missing else "")


@functools.cache
def protections() -> Protections:
    """Attack a box in every way that we promise against. Raises SandboxError where there is no box at all."""
    achieved = {**_denials(), **_limits()}
    missing = {name: str(achieved[name]) for name in PROTECTIONS if achieved[name]}
    return Protections(frozenset(PROTECTIONS) - missing.keys(), missing)


def require(names: Iterable[str] = tuple(PROTECTIONS)) -> Protections:
    """Go on only with these protections in force. Raises SandboxError with what is missing and the way to get it."""
    wanted = set(names)
    if unknown := wanted - PROTECTIONS.keys():
        raise SandboxError(f"no protection {', '.join(sorted(unknown))}; there are {', '.join(PROTECTIONS)}")
    found = protections()
    lacking = [
        f"  {name}: {PROTECTIONS[name]} — {found.missing[name]}" for name in sorted(wanted & found.missing.keys())
    ]
    if lacking:
        ways_out = "Ask for fewer (the argument `protections`), or run programs elsewhere (`executor: http://…`)."
        if "system_calls" in found.missing:
            ways_out = "For system_calls: pip install pyseccomp, apt-get install libseccomp2. " + ways_out
        raise SandboxError("the sandbox lacks what is demanded:\n" + "\n".join([*lacking, ways_out]))
    return found


# --- what must be denied outright ----------------------------------------------------------------------------------

_DENIALS = r"""
import ctypes, json, mmap, os, resource, socket, sys
secret, port, parent = json.loads(sys.stdin.read())
libc = ctypes.CDLL(None, use_errno=True)
achieved = {}

def attempt(name, what, action):
    try:
        done = action()
    except (OSError, MemoryError, OverflowError):
        return
    if done or done is None:
        achieved.setdefault(name, what)

def linked():
    os.symlink(secret, "/tmp/link")
    return open("/tmp/link").read()

attempt("filesystem", "a file of this machine was read", lambda: open(secret).read())
attempt("filesystem", "a file of this machine was read through a link", linked)
attempt("filesystem", "/etc/passwd was read", lambda: open("/etc/passwd").read())
for place in ("/", "/usr/lib", "/dev", "/proc/sys/kernel", os.path.dirname(secret)):
    attempt("filesystem", "a file was written in " + place, lambda: open(place + "/aha-was-here", "w").close())
attempt("processes", "the parent was seen", lambda: os.kill(parent, 0) or True)
attempt("processes", "other processes were seen", lambda: [p for p in os.listdir("/proc") if p.isdigit()] != [str(os.getpid())])
attempt("processes", "a file of process 1 was read", lambda: os.getpid() != 1 and open("/proc/1/environ").read())
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
attempt("user", "it is root", lambda: os.getuid() == 0)
attempt("user", "it became root", lambda: os.setuid(0) or True)
attempt("user", "it has capabilities", lambda: any(int(status[c], 16) for c in ("CapInh", "CapPrm", "CapEff", "CapAmb")))
attempt("user", "it can gain rights", lambda: status["NoNewPrivs"].strip() != "1")
attempt("network", "it reached this machine", lambda: socket.create_connection(("127.0.0.1", port), 0.5) or True)
attempt("network", "it has an interface", lambda: open("/proc/net/dev").read().count(":") > 1)
attempt("environment", "our variables: " + " ".join(os.environ), lambda: set(os.environ) - set(
    "PATH HOME LANG LC_CTYPE PWD MALLOC_ARENA_MAX".split()))
attempt("environment", "open files", lambda: sum(os.path.exists("/proc/self/fd/%d" % n) for n in range(3, 1024)) > 0)
attempt("system_calls", "there is no filter", lambda: status["Seccomp"].strip() != "2")
attempt("system_calls", "a socket was opened", lambda: socket.socket(socket.AF_UNIX))
attempt("system_calls", "a namespace was made", lambda: libc.unshare(0x10000000) == 0)
attempt("system_calls", "a process was traced", lambda: libc.ptrace(0, 0, 0, 0) == 0)
attempt("system_calls", "it can outlive its parent", lambda: libc.prctl(1, 0, 0, 0, 0) == 0)

def limit(which, otherwise):
    value = resource.getrlimit(which)[0]
    return value if 0 <= value < 1 << 40 else otherwise

most = min(limit(resource.RLIMIT_NPROC, 32), 64)
def storm():
    children = []
    try:
        while len(children) <= most + 4:
            pid = os.fork()
            if not pid:
                os.read(ends[0], 1)
                os._exit(0)
            children.append(pid)
    finally:
        for pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
ends = os.pipe()
attempt("fork", "%d processes, the limit is %d" % (most + 4, most), storm)
attempt("memory", "1 GiB", lambda: mmap.mmap(-1, 1 << 30))
def big():
    with open("/tmp/big", "wb") as file:
        file.seek(limit(resource.RLIMIT_FSIZE, 1 << 23))
        file.write(b"x")
attempt("file_size", "a file beyond the limit", big)
def many():
    for number in range(40):
        with open("/tmp/%d" % number, "wb") as file:
            file.write(bytes(1 << 20))
attempt("disk", "40 MiB in /tmp", many)
def shared():
    for number in range(40):
        with open("/dev/shm/%d" % number, "wb") as file:
            file.write(bytes(1 << 20))
attempt("disk", "40 MiB in /dev/shm", shared)
attempt("descriptors", "200 open files", lambda: [os.dup(0) for _ in range(200)])
print(json.dumps(achieved))
"""
_SMALL = Limits(cpu=10, wall=30, memory=512 << 20, file_size=4 << 20, disk=16 << 20, processes=12)


def _denials() -> dict[str, str]:
    """Name -> what an attack achieved (nothing, when it failed)."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        os.chmod(folder, 0o777)  # what protects it must be the box, not its mode
        secret = Path(folder) / "secret"
        secret.write_text("secret")
        given = json.dumps([str(secret), server.getsockname()[1], os.getpid()]).encode()
        ran = run(_DENIALS, given, _SMALL)
    try:
        achieved = dict(json.loads(ran.stdout))
    except ValueError:
        raise SandboxError(
            f"the box cannot be tested: {ran.how}: {ran.stderr.decode(errors='replace')[-500:]}"
        ) from None
    return {name: achieved.get(name, "") for name in PROTECTIONS}


# --- what must be stopped ------------------------------------------------------------------------------------------

PATIENCE = 5.0
"""Seconds after which an attack that nothing else has stopped was not stopped by its limit."""
_FAMILY = """
import os, time
for _ in range(4):
    if not os.fork():
        held = b"x" * (48 << 20)
        break
time.sleep(20)
"""
_FILES = "import os\nfor n in range(100000): os.close(os.open('/tmp/%d' % n, os.O_CREAT | os.O_WRONLY))"
_WRITER = "import os\nwhile True: os.write({}, b'x' * 4096)"


def _limits() -> dict[str, str]:
    """The attacks that only a watcher outside can end: name -> how they ended, when that is not by their limit."""
    achieved = {
        "family_memory": _unless(run(_FAMILY, limits=Limits(memory=128 << 20, wall=PATIENCE)), "memory"),
        "cpu": _unless(run("while True: pass", limits=Limits(cpu=0.2, wall=PATIENCE)), "cpu"),
        "wall": _unless(run("import time; time.sleep(20)", limits=Limits(wall=0.3)), "wall"),
        "output": "",
    }
    for descriptor in (1, 2):
        ran = run(_WRITER.format(descriptor), limits=Limits(output=1 << 16, wall=PATIENCE))
        achieved["output"] = achieved["output"] or _unless(ran, "output")
    files = _unless(run(_FILES, limits=Limits(files=500, cpu=10, wall=PATIENCE)), "files")
    return achieved | ({"disk": files} if files else {})


def _unless(ran: Ran, limit: str) -> str:
    return "" if ran.exit_code is None and ran.limit == limit else f"the attack ended with {ran.how}"
