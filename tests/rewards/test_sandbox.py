"""Escape attempts: each program tries to get out of its box, to hold more than its share, or to stay.

None of these is run outside of a box, and none with limits that would hurt the machine if the box did not hold.
`AHA_BOXES=1000 pytest tests/rewards/test_sandbox.py -k in_a_row` runs the full promise; the default is a sixteenth of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from aha.rewards.sandbox import PROTECTIONS, Limits, Ran, SandboxError, box, executor, proofs, protections, require, run
from aha.rewards.scorer import Scorer

BOXES = int(os.environ.get("AHA_BOXES", "60"))
SMALL = Limits(
    cpu=1, wall=20, memory=256 << 20, output=1 << 20, file_size=4 << 20, disk=16 << 20, files=1000, processes=16
)
SECRET = Path(__file__).resolve()


def why_not() -> str:
    """The reason why this machine has no box, or an empty text."""
    try:
        return "" if run("print(1)").stdout == b"1\n" else "a box does not run Python"
    except SandboxError as error:
        return str(error)


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no sandbox on this machine: {WHY_NOT}")


def boxes() -> set[int]:
    """Processes that stand in a box now, ours or nobody's: those of tests that run beside these are left out."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.NoSuchProcess):
            if box.PROGRAM in (process.info["cmdline"] or []):
                above = {parent.pid for parent in process.parents()}
                if os.getpid() in above or os.getppid() not in above or os.getppid() == 1:
                    found.add(process.pid)
    return found


# --- what is denied ------------------------------------------------------------------------------------------------

ATTEMPT = """
import ctypes, os, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "denied")
def attack():
{}
try:
    attack()
except (OSError, MemoryError, RuntimeError) as error:
    print("denied", type(error).__name__)
else:
    print("ESCAPED")
sys.stdout.flush()
os._exit(0)
"""
DENIED = {
    "500 threads": "for _ in range(500): threading.Thread(target=time.sleep, args=(30,), daemon=True).start()",
    "100 GB at once": "bytearray(100 << 30)",
    "memory in a loop": "held = []\nwhile True: held.append(bytearray(10 << 20))",
    "fill /tmp": "for n in range(100): open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))",
    "fill /dev/shm": "for n in range(100): open(f'/dev/shm/{n}', 'wb').write(bytes(1 << 20))",
    "1 GB file": "with open('/tmp/x', 'wb') as file:\n    while True: file.write(bytes(1 << 20))",
    "a sparse 1 GB file": "os.truncate(os.open('/tmp/x', os.O_CREAT | os.O_RDWR), 1 << 30)",
    "10,000 descriptors": "for _ in range(10000): os.dup(0)",
    "a host file by name": f"open({str(SECRET)!r}).read()",
    "a host file by symlink": f"os.symlink({str(SECRET)!r}, '/tmp/l'); open('/tmp/l').read()",
    "a host file by dots": f"open('/tmp/../..' + {str(SECRET)!r}).read()",
    "a host file through process 1": f"open('/proc/1/root' + {str(SECRET)!r}).read()",
    "/etc/shadow": "open('/etc/shadow').read()",
    "/etc/passwd": "open('/etc/passwd').read()",
    "/sys": "os.listdir('/sys')",
    "a host folder": "os.listdir('/home')",
    "write to /": "open('/x', 'w')",
    "write to /usr": "open('/usr/lib/x', 'w')",
    "write to /dev": "open('/dev/x', 'w')",
    "write to the program": "open('/program.py', 'w')",
    "replace the program": "os.replace('/program.py', '/tmp/p')",
    "write to stdin": "open('/dev/stdin', 'r+b', buffering=0).write(b'x')",
    "kernel settings": "open('/proc/sys/kernel/hostname', 'w').write('x')",
    "somebody's environment": "open(f'/proc/{sys.stdin.read()}/environ').read()",
    "kill the parent": "os.kill(int(sys.stdin.read()), 9)",
    "kill everybody": "os.kill(-1, 9)",
    "TCP": "socket.create_connection(('127.0.0.1', 22), 1)",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))",
    "a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "an abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0somewhere')",
    "listen": "socket.create_server(('127.0.0.1', 0))",
    "unshare": "call(272, 0x10000000)",
    "a namespace by clone": "call(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "mount": "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)",
    "unmount": "call(166, b'/tmp', 2)",
    "chroot": "os.chroot('/tmp')",
    "ptrace": "call(101, 0, 0, 0, 0)",
    "setuid": "os.setuid(0)",
    "setgid": "os.setgid(0)",
    "a device": "os.mknod('/tmp/d', 0o20666, os.makedev(1, 1))",
    "memory without a process": "os.memfd_create('x')",
    "shared memory without a process": "call(29, 0, 1 << 20, 0o1600)",
    "keys": "call(250, 0, 0)",
    "io_uring": "call(425, 8, 0)",
    "bpf": "call(321, 0, 0, 0)",
    "outlive the parent": "call(157, 1, 0, 0, 0, 0)",
    "hide from the watcher": "call(157, 4, 0, 0, 0, 0)",
    "more of a limit": "import resource\ntry: resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))\n"
    "except ValueError: raise OSError from None",
}  # fmt: skip


@pytest.mark.parametrize("name", DENIED)
def test_denied(name: str) -> None:
    attack = "\n".join(f"    {line}" for line in DENIED[name].split("\n"))
    ran = run(ATTEMPT.format(attack), str(os.getpid()).encode(), SMALL)
    assert ran.stdout.startswith(b"denied"), (ran.how, ran.stdout, ran.stderr)


# --- what is stopped -----------------------------------------------------------------------------------------------

STOPPED = {
    "a fork bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", {"cpu"}, {}),
    "spin, deaf": ("import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
                   "    except OSError: pass\nwhile True: pass", {"cpu"}, {}),
    "a power tower": ("9**9**9", {"cpu", "memory"}, {}),
    "closed stdout, and linger": ("import os, time\nos.close(1); os.close(2)\ntime.sleep(99)", {"wall"}, {"wall": 0.5}),
    "sleep, deaf": ("import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(99)", {"wall"}, {"wall": 0.5}),
    "stdin for ever": ("import sys\nwhile True: sys.stdin.read()", {"cpu"}, {}),
    "a GB to stdout": ("while True: print('x' * 100000)", {"output"}, {}),
    "a GB to stderr": ("import sys\nwhile True: sys.stderr.write('x' * 100000)", {"output"}, {}),
    "a million files": ("import os\nfor n in range(10**6): os.close(os.open(f'/tmp/{n}', os.O_CREAT))", {"files"}, {"cpu": 10}),
    "a family's memory": (
        "import os, time\nfor _ in range(6):\n    if not os.fork():\n        held = b'x' * (60 << 20)\n        break\n"
        "time.sleep(30)", {"memory"}, {}),
    "a __str__ that loops": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E", {"cpu"}, {}),
    "a thread that stays": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()", {"wall"}, {"wall": 0.5}),
    "an atexit that loops": ("import atexit\n@atexit.register\ndef f():\n    while True: pass", {"cpu"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", STOPPED)
def test_stopped(name: str) -> None:
    program, by, limits = STOPPED[name]
    before = boxes()
    ran = run(program, b"", Limits(**{**vars(SMALL), "cpu": 0.4, **limits}))
    assert ran.exit_code is None and ran.limit in by, (ran.how, ran.stderr[-500:])
    assert not boxes() - before


@pytest.mark.parametrize(
    ("program", "limit"),
    [
        ("x = bytearray(1 << 30)", "memory"),
        ("open('/tmp/x', 'wb').write(bytes(8 << 20))", "file_size"),
        ("import os\nwhile True: os.dup(0)", "descriptors"),
        ("for n in range(40): open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))", "disk"),
        ("import os, time\nfor _ in range(40):\n    if not os.fork(): time.sleep(20); break", "processes"),
    ],
)
def test_a_limit_that_the_program_runs_into_is_named(program: str, limit: str) -> None:
    ran = run(program, b"", SMALL)
    assert (ran.exit_code, ran.limit) == (1, limit), ran


def test_a_daemon_ends_with_its_program() -> None:
    before = boxes()
    daemon = "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n        time.sleep(99)\n    os._exit(0)"
    ran = run(f"{daemon}\ntime.sleep(0.1)\nprint('done')", b"", SMALL)
    assert (ran.stdout, ran.exit_code) == (b"done\n", 0)
    assert not boxes() - before


def test_nothing_is_left_for_the_next_program() -> None:
    run("open('/tmp/json.py', 'w').write('raise SystemExit(7)')\nopen('/dev/shm/note', 'w').write('psst')")
    ran = run("import os\nprint(os.listdir('/tmp'), os.listdir('/dev/shm'))")
    assert ran.stdout == b"[] []\n"


@pytest.mark.parametrize("name", ["json", "sitecustomize", "usercustomize"])
def test_modules_in_the_working_directory_are_not_imported(name: str) -> None:
    again = "import subprocess, sys\nprint(subprocess.run([sys.executable, '-I', '-c', 'import json']).returncode)"
    ran = run(f"open('{name}.py', 'w').write('raise SystemExit(7)')\nimport json\n{again}")
    assert (ran.stdout, ran.exit_code) == (b"0\n", 0), ran.stderr


def test_our_environment_and_files_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with open(__file__) as opened:
        os.set_inheritable(opened.fileno(), True)
        ran = run(
            "import os\nprint(sorted(os.environ), [n for n in range(3, 999) if os.path.exists(f'/proc/self/fd/{n}')])"
        )
    assert ran.stdout == b"['HOME', 'LANG', 'MALLOC_ARENA_MAX', 'PATH', 'PWD'] []\n"


# --- what is allowed -----------------------------------------------------------------------------------------------

ALLOWED = {
    "a sum of stdin": ("print(sum(map(int, input().split())))", b"7"),
    "stdin by name": ("print(sum(map(int, open('/dev/stdin').read().split())))", b"7"),
    "stdout by name": ("open('/dev/stdout', 'w').write('7')", b"7"),
    "recursion": ("import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(50000))", b"50000"),
    "recursion in a big thread": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(64 << 20)\n"
        "def f(n): return n and 1 + f(n - 1)\nt = threading.Thread(target=lambda: print(f(20000)))\nt.start()\nt.join()",
        b"20000"),
    "a 200 MB list": ("print(len([0] * (25 << 20)))", b"26214400"),
    "a file in /tmp": ("open('/tmp/x', 'w').write('hm')\nprint(open('/tmp/x').read())", b"hm"),
    "exit()": ("print('hm')\nexit()", b"hm"),
    "four threads": (
        "from concurrent.futures import ThreadPoolExecutor\nprint(sum(ThreadPoolExecutor(4).map(abs, range(5))))", b"10"),
    "asyncio": ("import asyncio\nasync def f(): await asyncio.sleep(0); return 7\nprint(asyncio.run(f()))", b"7"),
    "processes": (
        "import multiprocessing\nwith multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, range(5))))", b"10"),
    "letters of the world": ("print('äß漢😀')", "äß漢😀".encode()),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name: str) -> None:
    program, expected = ALLOWED[name]
    ran = run(program, b"3 4\n", Limits(cpu=10, wall=60))
    assert (ran.stdout.strip(), ran.exit_code, ran.limit) == (expected, 0, ""), ran


@pytest.mark.parametrize("program", ["\ud800", "\x00", "(" * 10_000, "import", "raise SystemExit(3)", ""])
def test_programs_that_are_none_end_by_themselves(program: str) -> None:
    assert isinstance(run(program, b"", SMALL).exit_code, int)


def test_large_input_and_output_pass_whole() -> None:
    ran = run("import sys\nsys.stdout.write(sys.stdin.read())", b"x" * (3 << 20))
    assert len(ran.stdout) == 3 << 20 and ran.exit_code == 0


# --- many, and for how long ----------------------------------------------------------------------------------------

BUSY = """
import os, time
for _ in range(4):  # children that are never waited for, and one that stays
    if not os.fork():
        os._exit(0)
if not os.fork():
    os.setsid()
    time.sleep(99)
print(sum(map(int, input().split())))
"""


def test_programs_in_a_row_leave_nothing() -> None:
    before, descriptors = boxes(), psutil.Process().num_fds()
    limits = Limits(cpu=10, wall=60, processes=8)

    def one(number: int) -> Ran:
        if number % 20 == 19:
            return run("import time; time.sleep(99)", b"", Limits(wall=0.2))
        return run(BUSY, f"{number} 1".encode(), limits)

    with ThreadPoolExecutor(3) as pool:
        for number, ran in enumerate(pool.map(one, range(BOXES))):
            if number % 20 == 19:
                assert ran.limit == "wall"
            else:
                assert (ran.stdout, ran.exit_code) == (b"%d\n" % (number + 1), 0), ran
    assert not boxes() - before
    assert not [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]
    assert psutil.Process().num_fds() == descriptors


def test_who_is_killed_takes_its_box_along() -> None:
    code = "from aha.rewards.sandbox import Limits, run; run('import time; time.sleep(99)', limits=Limits(wall=99))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    judge = subprocess.Popen([sys.executable, "-c", code], env=environment)
    family: list[psutil.Process] = []
    while not any(box.PROGRAM in each.cmdline()[-1:] and "bwrap" not in each.cmdline()[0] for each in family):
        assert judge.poll() is None
        time.sleep(0.05)
        family = [each for each in psutil.Process(judge.pid).children(recursive=True) if each.is_running()]
    judge.send_signal(signal.SIGKILL)
    judge.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


# --- proofs --------------------------------------------------------------------------------------------------------


def test_every_protection_is_in_force_here() -> None:
    assert protections().missing == {}
    assert require().in_force == set(PROTECTIONS)


def test_a_run_is_told_which_are_in_force() -> None:
    with Scorer({"code_tests": 1.0}, workers=1) as scorer:
        (note,) = scorer.notes
    assert note.startswith("code_tests: sandbox, in force: ") and all(name in note for name in PROTECTIONS)


@pytest.mark.parametrize(
    ("removed", "before", "added", "missing"),
    [
        ("--unshare-all", "--hostname", "--unshare-pid --unshare-ipc --unshare-uts", "network"),
        ("--clearenv", "--chdir", "--setenv HF_TOKEN secret", "environment"),
        ("", "--size", "--ro-bind / /host --ro-bind /etc /etc", "filesystem"),
        ("", "--ro-bind-data", "--tmpfs /tmp", "disk"),
        ("--fsize", "", "", "file_size"),
        ("--nproc", "", "", "fork"),
        ("--nofile", "", "", "descriptors"),
        ("--as", "", "", "memory"),
    ],
)
def test_a_hole_in_the_box_is_found(
    removed: str, before: str, added: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = box._command

    def leaky(limits: Limits, *descriptors: int) -> list[str]:
        command = [part for part in whole(limits, *descriptors) if part.partition("=")[0] != removed]
        at = command.index(before) if before else 0
        return [*command[:at], *added.split(), *command[at:]]

    monkeypatch.setattr(box, "_command", leaky)
    assert {name for name, achieved in proofs._denials().items() if achieved} == {missing}


@pytest.mark.parametrize(
    ("name", "method", "missing"),
    [
        ("_exceeded", lambda self: "", {"cpu", "family_memory", "disk"}),
        ("_full", lambda self: "", {"output"}),
    ],
)
def test_a_watcher_that_sleeps_is_found(
    name: str, method: object, missing: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box._Box, name, method)
    monkeypatch.setattr(proofs, "PATIENCE", 1.5)
    assert {name for name, achieved in proofs._limits().items() if achieved} == missing


def test_a_box_without_a_filter_is_refused_unless_the_recipe_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "syscall_filter", lambda: None)
    found = proofs.protections.__wrapped__()
    assert set(found.missing) == {"system_calls"}
    monkeypatch.setattr(proofs, "protections", lambda: found)
    with pytest.raises(SandboxError, match=r"(?s)system_calls.*pyseccomp"):
        require()
    assert "system_calls" in str(require(["network", "fork"]))
    with pytest.raises(SandboxError, match="no protection netwrok"):
        require(["netwrok"])


def test_without_bubblewrap_there_is_no_box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    box.bubblewrap.cache_clear()
    try:
        with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
            run("print(1)")
    finally:
        box.bubblewrap.cache_clear()


def test_a_box_that_cannot_be_built_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "_mounts", lambda: ("--ro-bind", "/no/such/folder", "/usr"))
    with pytest.raises(SandboxError, match="no box: bwrap: Can't find source path"):
        run("print(1)")


def test_executors_have_names() -> None:
    assert executor("sandbox") is run
    with pytest.raises(SandboxError, match="rust"):
        executor("sandbox", "rust")
    with pytest.raises(SandboxError, match="docker"):
        executor("docker")
