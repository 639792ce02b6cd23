"""A box for programs that a model wrote: what it covers, what it does not, and the one contract of all executors.

    ran = run(program, stdin=b"3 4\\n", limits=Limits(cpu=2.0))        # here, in a box of its own, about 30 ms
    ran = executor("http://host:2000")(program, b"3 4\\n", Limits())   # there, on a Piston-style server

An executor is a function `(program, stdin, limits) -> Ran`. A program that fails or is stopped is a `Ran` that says
so; only a box that cannot be had, or a server that does not answer, is a `SandboxError`. So a reward can tell a
wrong program from a broken machine.

The local box is bubblewrap around the system's Python, and Linux only. In it a program has

* its own mounts: the interpreter and its libraries, read only, and a small /tmp in memory. No /etc, no /home, no
  checkout;
* its own process, user, network, IPC and host-name view: it is alone, nobody, and without a network, the loopback
  included;
* no environment of ours, no open file of ours, no terminal, no new privileges, and a seccomp filter;
* limits on processor time, wall time, memory of each process and of all together, output, file size, disk, number
  of files, descriptors, processes and threads. When its first process ends, or its parent does, everything in it
  ends.

`protections()` does not believe any of this: it runs attacks in a box and lists those that came to nothing.
`require(names)` refuses to go on when one that is asked for is not in force.

What it does not cover: bubblewrap shares the kernel, so a hole in the kernel is a hole in the box; for code that
people wrote to do harm, use a machine of its own behind `executor("http://…")`. Memory of all processes together,
processor time and the number of files are looked at every 20 ms, and can be exceeded for that long; memory that
processes share is counted for each of them. What the kernel tells everybody (its version, the processors, the load)
can be read, and so can the clock: timing channels are open. A program slows its neighbours down within its limits.
Only the standard library can be imported, and Python only is run here. What a program prints is data and nothing
more: an exit code of 0 is no proof of anything.
"""

from __future__ import annotations

from collections.abc import Callable

from aha.rewards.sandbox.box import Limits, Ran, SandboxError, run
from aha.rewards.sandbox.proofs import PROTECTIONS, Protections, protections, require
from aha.rewards.sandbox.remote import Remote

__all__ = [
    "PROTECTIONS",
    "Executor",
    "Limits",
    "Protections",
    "Ran",
    "Remote",
    "SandboxError",
    "executor",
    "protections",
    "require",
    "run",
]

Executor = Callable[[str, bytes, Limits], Ran]


def executor(name: str, language: str = "python") -> Executor:
    """`sandbox` is the box on this machine; an http(s) address is a Piston-style server. Raises SandboxError otherwise."""
    if name == "sandbox" and language == "python":
        return run
    if name.startswith(("http://", "https://")):
        return Remote(name, language)
    raise SandboxError(
        f"no executor {name!r} for {language}: `sandbox` runs Python, an http:// address what its server has"
    )
