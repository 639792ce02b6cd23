"""What a program in the box may not ask of the kernel: a seccomp filter, made once and handed to each box.

Python needs a few hundred system calls and changes which with each version, so the list is of what is refused:
whatever opens a way out (sockets, namespaces, mounts, other processes), what holds memory that no limit counts, and
the least tested corners of the kernel. Refused calls fail with EPERM; a program that can live without them does.
Socket pairs stay, asyncio needs them.
"""

from __future__ import annotations

import errno
import functools
import tempfile

REFUSED = (
    # a network, or the processes of others
    "socket", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    # another view of the machine
    "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount",
    "fspick", "mount_setattr", "name_to_handle_at", "open_by_handle_at", "quotactl", "swapon", "swapoff", "acct",
    # memory that belongs to no process
    "memfd_create", "memfd_secret", "shmget", "shmat", "shmctl", "msgget", "semget", "mq_open", "add_key", "request_key", "keyctl",
    # the kernel itself
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "init_module",
    "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "syslog", "settimeofday", "clock_settime",
    "adjtimex", "clock_adjtime", "sethostname", "setdomainname", "iopl", "ioperm", "modify_ldt", "vhangup", "fanotify_init",
    "lookup_dcookie", "personality", "vmsplice",
)  # fmt: skip

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET together."""
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_TIOCSTI = 0x5412


@functools.cache
def syscall_filter() -> bytes | None:
    """The filter as a BPF program, or None where libseccomp cannot be had (then `protections()` lacks `syscalls`)."""
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError):  # RuntimeError: the package is there, the C library is not
        return None
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    denied = seccomp.ERRNO(errno.EPERM)
    for name in REFUSED:
        if _known(seccomp, name):
            rules.add_rule(denied, name)
    for bit in range(32):  # any of these flags: one rule each
        flag = 1 << bit
        if flag & _NEW_NAMESPACES:
            rules.add_rule(denied, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    # Its flags are behind a pointer, where no filter can look; without it the C library takes clone.
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    # Outliving the parent, and hiding from it.
    for option in (_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE):
        rules.add_rule(denied, "prctl", seccomp.Arg(0, seccomp.MASKED_EQ, 0xFFFFFFFF, option))
    rules.add_rule(denied, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, _TIOCSTI))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _known(seccomp: object, name: str) -> bool:
    """Whether this libseccomp and this processor have a call of that name; older ones lack the newest."""
    try:
        return int(seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)) >= 0  # type: ignore[attr-defined]
    except (OSError, ValueError, KeyError):
        return False
