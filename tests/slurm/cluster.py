"""A real Slurm of virtual nodes on one machine: controller, daemons, munge and fake GPUs, gone when the process is gone.

    with Cluster(folder) as cluster:
        cluster.run("sbatch", "--wrap=hostname")

Everything lives in namespaces of its own: one for processes (whoever ends it ends every daemon and every job), one for
mounts, and one network and host name for each node, so that "localhost" is never by accident the right address. It
proves scripts and wiring: it proves nothing about GPUs, NCCL or memory limits.

To play with it: `python tests/slurm/cluster.py` opens a shell on the head node; `exit` ends the cluster.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol", "ip", "nsenter", "unshare")
PACKAGES = "slurm-wlm slurmctld slurmd slurm-client munge iproute2"
PR_SET_PDEATHSIG = 1

# The first process of the cluster: it takes in every orphan, as an init does, or finished jobs would stay as zombies.
INIT = """
import os, time
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.05)
"""

# Jobs may come back six seconds after a requeue: that is `cred_expire`; 120 is what Slurm waits otherwise.
SLURM_CONF = """
ClusterName=virtual
SlurmctldHost=head(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
PrologFlags=NoHold
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=15
KillWait=10
MinJobAge=3600
JobRequeue=1
GresTypes=gpu
DefMemPerCPU=1000
NodeName=n[1-{nodes}] NodeAddr=10.77.0.1[1-{nodes}] CPUs=64 RealMemory=1000000 Gres=gpu:{gpus} State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=gpu Nodes=ALL Default=YES DefaultTime=60 MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL DefaultTime=60 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why no cluster can be started here; None when one can."""
    if os.geteuid() != 0:
        return "a virtual Slurm needs root, for its namespaces"
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"{', '.join(missing)} not found: apt-get install {PACKAGES}"
    trial = ["unshare", "--pid", "--fork", "--mount-proc", "--net", "--uts", "ip", "link", "add", "x", "type", "veth"]
    done = subprocess.run(trial, capture_output=True, text=True)
    return f"this machine gives no namespaces: {done.stderr.strip()}" if done.returncode else None


class Cluster:
    """`nodes` virtual nodes n1, n2, … of 64 CPUs and `gpus` fake GPUs, and a head node where the user is."""

    def __init__(self, root: Path, nodes: int = 2, gpus: int = 8) -> None:
        assert 1 <= nodes <= 9, "their addresses end in one digit"
        self.root = root
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.gpus = gpus
        self._pid = 0
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Cluster:
        try:
            self._write_files()
            self._make_namespaces()
            self._start_daemons()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what a test does with it ----------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What makes a client find this cluster and no other. A job inherits it too, as on any cluster."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return clean | {"SLURM_CONF": str(self.root / "slurm.conf")}

    def on_head(self, *command: str | Path, cwd: Path | None = None) -> list[str]:
        """The command line that runs `command` on the head node, where a user would type it."""
        return [*self._inside(cwd), *map(str, command)]

    def run(
        self, *command: str | Path, check: bool = True, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the head node."""
        done = subprocess.run(
            self.on_head(*command, cwd=cwd),
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        told = f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, told
        return done

    def state(self, job: str) -> str:
        """A job's state in Slurm's own words: PENDING, RUNNING, COMPLETED, FAILED, …"""
        return self.facts(job)["JobState"]

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says, of the first part of a heterogeneous one: JobState, Restarts, ExitCode, NodeList, …"""
        words = self.run("scontrol", "show", "job", "--oneliner", job).stdout.splitlines()[0].split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, job: str, *states: str, seconds: float = 500) -> dict[str, str]:
        """Wait until a job is in one of these states, and has left its nodes unless it runs; fails after `seconds`."""
        deadline = time.monotonic() + seconds
        while (facts := self.facts(job))["JobState"] not in states:
            assert time.monotonic() < deadline, f"job {job} is not {' or '.join(states)} after {seconds} s: {facts}"
            time.sleep(0.1)
        return facts

    def cut_power(self, node: str) -> None:
        """Every process on a node ends at once, and the operator sees that it is gone."""
        address = os.stat(f"/proc/{self._pid}/root{self.root}/net/{node}").st_ino  # as the cluster's mounts show it
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.stat(entry / "ns/net").st_ino == address:
                    os.kill(int(entry.name), signal.SIGKILL)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=power")

    def restore_power(self, node: str) -> None:
        """The node boots, and takes jobs again."""
        self._start_node(node)
        self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self._wait_until_up()

    def stop(self) -> None:
        """End every daemon and every job. Also happens when this process is killed."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
        self._pid, self._holder = 0, None

    # --- how it starts ---------------------------------------------------------------------------------------------

    def _write_files(self) -> None:
        for folder in ("munge", "state", "log", "net", "dev", *(f"spool/{node}" for node in self.nodes)):
            (self.root / folder).mkdir(parents=True)
        self.root.chmod(0o755)
        (self.root / "munge").chmod(0o711)
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for gpu in range(self.gpus):
            os.mknod(self.root / "dev" / f"nvidia{gpu}", 0o20666, os.makedev(1, 3))
        for node in self.nodes:
            (self.root / "net" / node).touch()
        conf = SLURM_CONF.format(root=self.root, nodes=len(self.nodes), gpus=self.gpus).lstrip()
        (self.root / "slurm.conf").write_text(conf)
        (self.root / "gres.conf").write_text(f"Name=gpu File={self.root}/dev/nvidia[0-{self.gpus - 1}]\n")
        (self.root / "plugstack.conf").touch()

    def _make_namespaces(self) -> None:
        own = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--uts", "--mount"]
        self._holder = subprocess.Popen([*own, sys.executable, "-I", "-S", "-c", INIT], preexec_fn=_die_with_parent)
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        _wait("the namespaces", lambda: bool(children.read_text().strip()))
        self._pid = int(children.read_text().split()[0])
        _wait("the namespaces", lambda: Path(f"/proc/{self._pid}/comm").read_text().strip() != "unshare")
        net = self.root / "net"
        lines = ["hostname head", "ip link set lo up", "ip link add br0 type bridge", "ip link set br0 up"]
        lines.append("ip addr add 10.77.0.1/24 dev br0")
        for number, node in enumerate(self.nodes, 1):
            inside = f"nsenter --net={net}/{node}"
            lines += [
                f"unshare --net={net}/{node} true",
                f"ip link add {node} type veth peer name eth0",
                f"ip link set eth0 netns {net}/{node}",
                f"ip link set {node} master br0 up",
                f"{inside} ip link set lo up",
                f"{inside} ip addr add 10.77.0.1{number}/24 dev eth0",
                f"{inside} ip link set eth0 up",
            ]
        # Host names resolve inside the cluster only: this file is mounted over the machine's own, for it alone.
        hosts = ["127.0.0.1 localhost", "10.77.0.1 head"]
        hosts += [f"10.77.0.1{number} {node}" for number, node in enumerate(self.nodes, 1)]
        (self.root / "hosts").write_text("\n".join(hosts) + "\n")
        lines.append(f"mount --bind {self.root}/hosts /etc/hosts")
        self.run("sh", "-ec", "\n".join(lines))

    def _start_daemons(self) -> None:
        munge = self.root / "munge"
        options = [f"--key-file={self.root}/munge.key", f"--socket={munge}/socket", f"--pid-file={munge}/pid"]
        options += [f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--force", "--num-threads=2"]
        self.run("munged", *options)
        self._daemon(self._inside(), ["slurmctld", "-D"])
        for node in self.nodes:
            self._start_node(node)
        self._wait_until_up()

    def _start_node(self, node: str) -> None:
        own = [*self._inside(), "nsenter", f"--net={self.root}/net/{node}", "unshare", "--uts"]
        self._daemon(own, ["sh", "-c", f"hostname {node}; exec slurmd -D -N {node}"])

    def _daemon(self, where: list[str], command: list[str]) -> None:
        with (self.root / "log" / "daemons.txt").open("ab") as log:
            subprocess.Popen([*where, *command], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _inside(self, cwd: Path | None = None) -> list[str]:
        namespaces = ("--pid", "--mount", "--net", "--uts")
        return ["nsenter", f"--target={self._pid}", *namespaces, f"--wdns={cwd or Path.cwd()}"]

    def _wait_until_up(self) -> None:
        def all_serve() -> bool:
            states = self.run(
                "sinfo", "--noheader", "--Node", "--partition=gpu", "--format=%T", check=False
            ).stdout.split()
            return len(states) == len(self.nodes) and {"idle", "mixed", "allocated", "completing"}.issuperset(states)

        try:
            _wait("slurmctld and its nodes", all_serve, seconds=300)
        except TimeoutError as error:
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in (self.root / "log").iterdir())
            raise TimeoutError(f"{error}\n{logs}") from None


def _wait(what: str, ready: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come up in {seconds} s")
        time.sleep(0.02)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """A cluster and a shell on its head node."""
    if why := why_not():
        sys.exit(why)
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory(prefix="aha-slurm-") as folder:
        began = time.monotonic()
        with Cluster(Path(folder), nodes) as cluster:
            print(f"{nodes} nodes after {time.monotonic() - began:.1f} s; logs in {folder}/log; `exit` ends them")
            subprocess.run(cluster.on_head(os.environ.get("SHELL", "bash")), env=cluster.environment)


if __name__ == "__main__":
    main()
