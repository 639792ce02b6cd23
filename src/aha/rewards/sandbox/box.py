"""One program in one box: build it with bubblewrap, watch it from outside, and leave nothing behind.

The program is process 1 of its own pid namespace, so its end is the end of all that it started. bubblewrap stands
between: it tells the pid of that process (`--json-status-fd`), lets it wait until we hold it by a descriptor
(`--block-fd`), and collects its exit code. Whoever ends the box kills *that* process and lets bubblewrap reap it:
killing bubblewrap first leaves a zombie to a process 1 that may not care, and zombies count against a user's
processes.

As root, each box runs as a user that nobody else is: RLIMIT_NPROC does nothing for root, and what one user may have
of processes, pipes or keys is counted over all its boxes. The user's number is made of the number of the thread
that waits for the box, which the kernel keeps unique. An ordinary user's boxes are told apart by their user
namespaces (Linux 5.14 counts processes in each).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import resource
import select
import selectors
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from io import FileIO

from aha.errors import RewardError
from aha.rewards.sandbox.syscalls import syscall_filter

TICK = 0.02
"""Seconds between two looks at what a box uses."""
LOOKING = 2.0
"""Seconds for which a box that is being built may keep us waiting for a look inside."""
START = 20.0
"""Seconds a box may take to be built, and to be taken down."""
BUSY = 5
"""How many times its wall limit a program may take when the machine keeps it waiting for a processor."""
FIRST_USER = 1_900_000_000
"""Users above are nobody's by convention (systemd's table of uids calls the range unused)."""
BUBBLEWRAP = (0, 8)
INTERPRETERS = ("/usr/bin/python3", "/usr/local/bin/python3")
PRLIMIT = "/usr/bin/prlimit"
PROGRAM = "/program.py"
NAMESPACES = (
    "this machine does not give namespaces to ordinary users: sysctl kernel.unprivileged_userns_clone=1 (Debian), "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu 24.04), docker run --privileged (containers)"
)
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_LAST_WORDS = {
    "memory": r"MemoryError",
    "processes": r"BlockingIOError: \[Errno 11\]|RuntimeError: can't start new thread",
    "descriptors": r"OSError: \[Errno 24\]",
    "file_size": r"OSError: \[Errno 27\]",
    "disk": r"OSError: \[Errno 28\]",
}
"""What Python says last at a limit that the kernel holds: limit -> the beginning of the line."""


class SandboxError(RewardError):
    """A box cannot be had here, or with less protection than is asked for; says what is missing and how to get it."""


@dataclass(frozen=True)
class Limits:
    """What one program may use. Bytes and seconds."""

    cpu: float = 2.0
    """Processor time of all its processes together."""
    wall: float = 6.0
    """Time from its first instruction, waiting for a processor aside."""
    memory: int = 512 << 20
    """Address space of each process, and what all of them together may hold."""
    output: int = 4 << 20
    """Of stdout, and of stderr."""
    file_size: int = 16 << 20
    disk: int = 64 << 20
    """Of /tmp, which is in memory."""
    files: int = 10_000
    descriptors: int = 64
    processes: int = 32
    """Processes and threads."""


@dataclass(frozen=True)
class Ran:
    """How a program ended.

    >>> Ran(b"", b"", None, "cpu", 2.1, 2.0).how
    'stopped by its cpu limit'
    """

    stdout: bytes
    stderr: bytes
    exit_code: int | None
    """None when it was stopped; more than 128 when a signal ended it."""
    limit: str
    """The limit that stopped it, or that it says it ran into; empty otherwise."""
    seconds: float
    """Wall time, building the box included."""
    cpu_seconds: float = 0.0

    @property
    def how(self) -> str:
        """In words, for a verdict's reason."""
        if self.exit_code is None:
            return f"stopped by its {self.limit} limit"
        return f"exit code {self.exit_code}" + (f", at its {self.limit} limit" if self.limit else "")


def run(program: str, stdin: bytes = b"", limits: Limits = Limits()) -> Ran:
    """Run a Python program in a box of its own. Raises SandboxError when there is no box, never for what the program does."""
    began = time.monotonic()
    with contextlib.ExitStack() as closing:
        box = _Box(program.encode("utf-8", "surrogatepass"), stdin, limits, closing)
        box.start()
        limit = box.watch()
        return box.finish(limit, began)


# --- what a box is made of -----------------------------------------------------------------------------------------


@functools.cache
def bubblewrap() -> str:
    """The path of a bubblewrap that is new enough; SandboxError without one."""
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxError("bubblewrap is not installed: apt-get install bubblewrap")
    told = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    version = tuple(int(number) for number in re.findall(r"\d+", told)[:2])
    if version < BUBBLEWRAP:
        raise SandboxError(f"{told.strip() or path} is too old: 0.8 or newer is needed (Debian 12, Ubuntu 24.04)")
    return path


@functools.cache
def interpreter() -> str:
    """The system's Python, outside of every home directory; SandboxError without one."""
    for path in INTERPRETERS:
        if os.path.exists(path):
            if not os.path.exists(PRLIMIT):
                raise SandboxError(f"no {PRLIMIT} to set limits with: apt-get install util-linux")
            return os.path.realpath(path)
    raise SandboxError(f"no {' or '.join(INTERPRETERS)} to run programs with: apt-get install python3")


@functools.cache
def _mounts() -> tuple[str, ...]:
    """The interpreter and its libraries, read only, and nothing else of this machine."""
    python = interpreter()
    local = ["/usr/local/lib"] if python.startswith("/usr/local/") else []
    mounts = ["--ro-bind", python, python, "--ro-bind", PRLIMIT, PRLIMIT]
    for folder in ("/usr/lib", "/usr/lib32", "/usr/lib64", *local):
        if os.path.isdir(folder):
            mounts += ["--ro-bind", folder, folder]
    for folder in ("/lib", "/lib32", "/lib64"):
        if os.path.islink(folder):
            mounts += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            mounts += ["--ro-bind", folder, folder]
    return (*mounts, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")


def _command(limits: Limits, status: int, block: int, program: int, filtered: int | None = None) -> list[str]:
    small = str(limits.disk // 4)
    return [
        bubblewrap(),
        *("--unshare-all", "--unshare-user", "--disable-userns", "--hostname", "box", "--cap-drop", "ALL"),
        *("--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"),
        *("--setenv", "PATH", "/usr/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"),
        *("--setenv", "MALLOC_ARENA_MAX", "2"),
        *_mounts(),
        *("--proc", "/proc", "--dev", "/dev", "--size", small, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),
        *("--size", str(limits.disk), "--tmpfs", "/tmp", "--ro-bind-data", str(program), PROGRAM, "--remount-ro", "/"),
        *("--json-status-fd", str(status), "--block-fd", str(block)),
        *(("--seccomp", str(filtered)) if filtered is not None else ()),
        *("--chdir", "/tmp", "--", *_prlimit(limits), interpreter(), "-I", PROGRAM),
    ]


def _prlimit(limits: Limits) -> list[str]:
    """Set by the program's own process on itself: that needs no right that a container might not give to its root."""
    return [
        PRLIMIT,
        f"--as={limits.memory}",
        f"--cpu={int(limits.cpu) + 2}",  # behind ours, which is finer and counts the whole family
        f"--fsize={limits.file_size}",
        f"--nofile={limits.descriptors}",
        f"--nproc={limits.processes}",
        *("--core=0", "--memlock=0", "--msgqueue=0", "--sigpending=256", "--"),
    ]


class _Box:
    """A box from its first process to its last; `closing` closes what it opened, however it ends."""

    def __init__(self, program: bytes, stdin: bytes, limits: Limits, closing: contextlib.ExitStack):
        self._program, self._stdin, self._limits, self._closing = program, stdin, limits, closing
        self._output = {"stdout": bytearray(), "stderr": bytearray()}
        self._process: subprocess.Popen[bytes]
        self._told: FileIO
        self._status = b""
        self._pid = 0
        self._pidfd = -1
        self._released = 0.0
        self._windows: tuple[int, ...] = ()

    def start(self) -> None:
        """Build the box, take hold of it while it waits, and let the program go."""
        told, status = self._pipe()
        block, release = self._pipe()
        filtered = syscall_filter()
        program, stdin = self._sealed(self._program), self._sealed(self._stdin)
        given = [status.fileno(), block.fileno(), program, *([self._sealed(filtered)] if filtered else [])]
        user = FIRST_USER + threading.get_native_id() if os.geteuid() == 0 else None
        try:
            self._process = subprocess.Popen(
                _command(self._limits, *given),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=given,
                env={},
                cwd="/",
                user=user,
                group=user,
                extra_groups=[] if user is not None else None,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxError(f"bubblewrap cannot be started: {error}") from error
        self._closing.callback(self._end)
        status.close()
        self._told = told
        if user is not None:  # or `open("/dev/stdout")`, which some programs do, would be denied
            for stream in (self._process.stdout, self._process.stderr):
                assert stream is not None
                os.fchown(stream.fileno(), user, user)
        self._hold(self._child())
        if user is not None:  # root may look in before the program runs; an ordinary user must wait until it does
            end = time.monotonic() + LOOKING
            while not self._look_in() and time.monotonic() < end:
                time.sleep(0.0005)
        release.write(b"\n")
        self._released = time.monotonic()

    def _child(self) -> int:
        """The pid, in our eyes, of the first process of the box."""
        end = time.monotonic() + START
        while b"\n" not in self._status:
            if not self._read_status(end - time.monotonic()):
                raise SandboxError(f"no box: {self._complaint()}")
        return int(json.loads(self._status.splitlines()[0])["child-pid"])

    def _hold(self, pid: int) -> None:
        """Take hold of the box's first process, so that killing it later can hit no other one of the same number."""
        try:
            self._pidfd = os.pidfd_open(pid)
            with open(f"/proc/{pid}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            parent = 0
        if parent != self._process.pid:  # it has ended already, and the number may be somebody else's
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1
            raise SandboxError(f"no box: {self._complaint()}")
        self._pid = pid

    def _read_status(self, patience: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._told, selectors.EVENT_READ)
            part = os.read(self._told.fileno(), 4096) if selector.select(max(patience, 0.0)) else b""
        self._status += part
        return bool(part)

    def watch(self) -> str:
        """Drain what the program writes until it ends or is ended; the limit that ended it, or an empty text."""
        limit, look, killed = "", self._released + TICK, 0.0
        with selectors.DefaultSelector() as selector:
            for name in self._output:
                stream = getattr(self._process, name)
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ, name)
            while selector.get_map():
                for key, _ in selector.select(TICK):
                    if not self._drain(key.fd, key.data):
                        selector.unregister(key.fileobj)
                now = time.monotonic()
                if limit:
                    if now > killed + START:
                        raise SandboxError(f"a box did not end within {START:.0f} s of being killed")
                    continue
                limit = self._full()
                if not limit and now >= look:
                    limit = self._exceeded() or ("wall" if self._late(now) else "")
                    look = time.monotonic() + TICK
                if limit:
                    self._kill()
                    killed = now
        return limit

    def finish(self, limit: str, began: float) -> Ran:
        """Collect the exit code. Without one, and without our doing, bubblewrap itself failed."""
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        while self._read_status(0.0):
            pass
        codes = [told["exit-code"] for told in map(json.loads, self._status.splitlines()) if "exit-code" in told]
        if not codes and not limit:
            raise SandboxError(f"no box: {self._complaint()}")
        seconds, cpu = time.monotonic() - began, usage.ru_utime + usage.ru_stime
        out, err = (bytes(each) for each in self._output.values())
        if not limit and codes[0] == 128 + signal.SIGKILL and cpu > self._limits.cpu:
            limit = "cpu"  # RLIMIT_CPU was faster
        if limit:
            return Ran(out, err, None, limit, seconds, cpu)
        return Ran(out, err, codes[0], _says(err) if codes[0] else "", seconds, cpu)

    # What the watch looks at.

    def _drain(self, descriptor: int, name: str) -> bool:
        """Take in what is there, as much as may be; False at its end."""
        try:
            part = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return True
        kept = self._output[name]
        kept += part[: self._limits.output + 1 - len(kept)]
        return bool(part)

    def _full(self) -> str:
        return "output" if any(len(each) > self._limits.output for each in self._output.values()) else ""

    def _exceeded(self) -> str:
        """The limit that the whole family in the box has passed. The kernel holds each process to its own."""
        if not self._windows and not self._look_in():
            return ""
        processes, disk = self._windows
        used = [_used(processes, name) for name in os.listdir(processes) if name.isdigit()]
        if sum(memory for _, memory in used) > self._limits.memory:
            return "memory"
        if sum(cpu for cpu, _ in used) > self._limits.cpu:
            return "cpu"
        files = os.fstatvfs(disk)
        return "files" if files.f_files - files.f_ffree > self._limits.files else ""

    def _late(self, now: float) -> bool:
        """Whether the wall limit has passed, without the time for which the machine had no processor for the program: that is
        not its fault. SandboxError when that goes on for too long."""
        passed = now - self._released
        if passed < self._limits.wall:
            return False
        ended = bool(select.select([self._pidfd], [], [], 0)[0])
        starved = (
            max(map(self._waited, filter(str.isdigit, os.listdir(self._windows[0]))), default=0.0)
            if self._windows
            else passed
        )
        if not ended and passed - starved >= self._limits.wall:
            return True
        if passed > BUSY * self._limits.wall + START:
            raise SandboxError(
                f"the machine is too busy: no end after {passed:.0f} s, {starved:.0f} s of them waiting for a processor"
            )
        return False

    def _waited(self, process: str) -> float:
        """Seconds that a process was ready to run and did not."""
        try:
            with open(os.open(f"{process}/schedstat", os.O_RDONLY, dir_fd=self._windows[0])) as file:
                return int(file.read().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):  # it is gone, or this kernel does not count
            return 0.0

    def _look_in(self) -> bool:
        """Open the box's own /proc and /tmp, once it has them. They stay open, so nothing that it does later can hide them."""
        root = f"/proc/{self._pid}/root"
        try:
            if os.stat(root).st_dev == os.stat("/").st_dev:
                return False  # still being built: that is our own root
            folders = [os.open(f"{root}/{name}", os.O_RDONLY | os.O_DIRECTORY) for name in ("tmp", "proc")]
        except OSError:
            return False
        for each in folders:
            self._closing.callback(os.close, each)
        self._windows = (folders[1], folders[0])
        return True

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _end(self) -> None:
        """Whatever happened: nothing of the box runs on, no pipe stays open, nothing is left to be reaped."""
        if self._process.returncode is None:
            if self._pidfd >= 0:
                self._kill()
            else:
                self._process.kill()
            try:
                self._process.wait(timeout=START)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)

    def _complaint(self) -> str:
        """What bubblewrap said when it could not build a box, with the way out where we know it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        said = bytes(self._output["stderr"])
        if not said and self._process.returncode is not None and self._process.stderr is not None:
            said = self._process.stderr.read() or b""
        text = said.decode(errors="replace").strip()[-300:] or f"bubblewrap ended with {self._process.returncode}"
        if re.search(r"namespace|uid map|permitted|mount proc|denied", text, re.IGNORECASE):
            text += f"\n  {NAMESPACES}"
        return text

    # What a box is handed.

    def _pipe(self) -> tuple[FileIO, FileIO]:
        read, write = os.pipe()
        ends = FileIO(read, "rb"), FileIO(write, "wb")
        for each in ends:
            self._closing.enter_context(each)
        return ends

    def _sealed(self, body: bytes) -> int:
        """A file in memory that nobody can change: a program that opens its stdin for writing gains nothing."""
        descriptor = os.memfd_create("box", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._closing.callback(os.close, descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(body)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor


def _used(processes: int, name: str) -> tuple[float, int]:
    """(processor seconds, resident bytes) of a process, its buried children's time included; nothing of one that is gone."""
    try:
        with open(os.open(f"{name}/stat", os.O_RDONLY, dir_fd=processes)) as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"), int(fields[21]) * resource.getpagesize()


def _says(stderr: bytes) -> str:
    """The limit that a program says it ran into: its last words, for a reason and for nothing else."""
    last = stderr[-1000:].decode(errors="replace").strip().rpartition("\n")[2]
    return next((limit for limit, words in _LAST_WORDS.items() if re.match(words, last)), "")
