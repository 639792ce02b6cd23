"""GRPO with nodes that serve its rollouts: one job, real vLLM on its last node, and the weights of the colocated run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from nano import NANO, ROOT
from safetensors.torch import load_file
from slurm.cluster import Cluster
from slurm.desk import Desk, last_step, wait_until
from slurm.test_jobs import ENDS, log_of, program

pytestmark = pytest.mark.long
LEFT_OUT = "--exclude=n3,n4"
"""The nodes of two jobs that wait for Slurm (test_jobs)."""


SHAPE = "{from_scratch: {hidden_size: 32, layers: 2, heads: 1, intermediate_size: 64, context: 128}}"


def recipe(start: str, **rollout: str) -> str:
    """The nano recipe's GRPO stage on two nodes, of which the last serves."""
    block = NANO[NANO.index("grpo:") : NANO.index("eval:")]
    words = ", ".join(f"{key}: {value}" for key, value in rollout.items())
    block = block.replace("rollout: {", f"rollout: {{mode: server, {words + ', ' if words else ''}")
    return f"model: {start}\nhardware: {{device: cpu, nodes: 2, parallel: ddp}}\n{block}"


def same_threads() -> str:
    """For the site file: as many threads in the job as this process's children have."""
    threads = os.environ.get("OMP_NUM_THREADS")
    return f"environment: {{OMP_NUM_THREADS: '{threads}'}}\n" if threads else "setup: [unset OMP_NUM_THREADS]\n"


@pytest.fixture(scope="module")
def served(cluster: Cluster, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Path, str]:
    """The GRPO stage of the finished nano run, submitted once more, on two nodes, and told to stop on its way."""
    desk = Desk(cluster, tmp_path_factory.mktemp("served"))
    desk.site(f"{same_threads()}directives: ['{LEFT_OUT}']\n")
    run = desk.recipe("served", recipe(f"{{path: {finished}/2-distill/model}}"))
    (script,) = desk.scripts("served.yaml")
    desk.sbatch(script, "--test-only")
    (job,) = desk.submit("served").values()
    return desk, run, job


def test_a_served_job_ends_with_the_weights_of_the_colocated_run(
    served: tuple[Desk, Path, str], finished: Path
) -> None:
    desk, run, job = served
    wait_until("the second step", lambda: last_step(run / "3-grpo") >= 2 or desk.cluster.state(job) in ENDS)
    desk.cluster.run("scancel", "--signal=USR1", job)  # every process of the job hears it: servers are still needed
    facts = desk.cluster.wait_for(job, *ENDS)
    told = log_of(desk, job)
    assert facts["JobState"] == "COMPLETED" and facts["NumNodes"] == "2", told
    assert "attempt 2 of at most 3" in told and "resuming from step-" in told, told
    port = 10000 + int(job) % 1000
    assert told.count(f"n1 train, n2 serve rollouts: 10.77.0.12:{port}") == 2, told
    assert told.count(f"servers 10.77.0.12:{port}, synchronous") == 2, "the trainer names its server"
    assert told.count("weights go to 1 engine process(es) by one broadcast (gloo)") == 2, told
    assert "a rollout server has ended" not in told and "over HTTP" not in told, told
    expected, got = (
        load_file(stage / "model" / "model.safetensors") for stage in (finished / "3-grpo", run / "3-grpo")
    )
    assert all(got[name].equal(weight) for name, weight in expected.items())
    assert not (run / "3-grpo" / "servers").exists(), "it started servers of its own"


def test_a_server_that_cannot_start_ends_the_job_with_its_words(desk: Desk) -> None:
    """Its checkpoint never comes: the server says so at its deadline. The training is a stub that would go on."""
    stub = f'[[ $1 == serve ]] || exec sleep 300\nexec {sys.executable} -m aha.cli "$@"\n'
    desk.site(f"command: {program(desk.folder / 'stub.sh', stub)}\n")
    run = desk.recipe("never", recipe(SHAPE, engine="transformers", server_deadline="1"))
    (run / "slurm").mkdir(parents=True)
    (desk.folder / "runs" / "never" / "recipe.yaml").write_text((desk.folder / "never.yaml").read_text())
    job = desk.sbatch(desk.scripts("never.yaml")[0])
    assert desk.cluster.wait_for(job, *ENDS)["JobState"] == "FAILED", log_of(desk, job)
    told = log_of(desk, job)
    assert "which the GRPO stage starts from, is not there" in told, told
    assert "a rollout server has ended, and said why above: the job ends" in told


ECHO = 'echo "STUB $(hostname) ${CUDA_VISIBLE_DEVICES:-none} $*"\n'


def four_nodes(desk: Desk) -> tuple[str, str]:
    """The GRPO script of the four-node recipe, two nodes of which serve, and the job that it has been, to its end."""
    asked = ["grpo.rollout.mode=server", "grpo.rollout.server_count=2"]
    (desk.folder / "runs" / "x" / "slurm").mkdir(parents=True)
    source = ROOT / "recipes" / "qwen2.5-7b-4node.yaml"
    script = next(one for one in desk.scripts(source, *asked, "--run-dir", "runs/x") if "--only grpo" in one)
    job = desk.sbatch(script)
    assert desk.cluster.wait_for(job, *ENDS)["JobState"] == "COMPLETED", log_of(desk, job)
    return script, job


def test_each_gpu_of_the_serving_nodes_has_a_server_at_an_address_of_its_own(desk: Desk) -> None:
    """Four nodes of eight GPUs, of which two serve; the payload is a stub, the addresses and the token are the script's."""
    stub = ECHO + '[[ $1 == serve ]] && exec sleep 300; sleep 2; echo "TOLD $AHA_ROLLOUT_SERVERS $AHA_ROLLOUT_TOKEN"\n'
    desk.site(f"command: {program(desk.folder / 'stub.sh', stub)}\n")
    script, job = four_nodes(desk)
    lines = [line.split() for line in log_of(desk, job).splitlines()]
    (told, other) = (line for line in lines if line[:1] == ["TOLD"])
    stubs = [line for line in lines if line[:1] == ["STUB"]]
    serving = {(line[1], line[2], line[line.index("--host") + 1] + ":" + line[-1]) for line in stubs if "serve" in line}
    addresses = told[1].split(",")
    assert serving == {
        (node, str(gpu), addresses[8 * number + gpu]) for number, node in enumerate(("n3", "n4")) for gpu in range(8)
    }
    assert [address.split(":")[0] for address in addresses] == ["10.77.0.13"] * 8 + ["10.77.0.14"] * 8
    assert told == other and len(told[2]) == 48 and told[2] not in script
    training = [line for line in stubs if "run" in line]
    assert sorted(line[1] for line in training) == ["n1", "n2"]
    assert all("--nnodes=2 --nproc-per-node=8" in " ".join(line) for line in training)


def test_nodes_of_another_kind_serve_and_come_back_with_the_job(desk: Desk) -> None:
    """A heterogeneous job: two nodes of eight GPUs train, two of another partition serve, and all of it is requeued once."""
    stub = ECHO + "[[ $1 == serve ]] && exec sleep 300; sleep 2; [[ ${SLURM_RESTART_COUNT:-0} == 1 ]] || exit 75\n"
    called = program(desk.folder / "stub.sh", stub)
    desk.site(f"command: {called}\nscratch: {desk.folder}\nserving: {{partition: urgent, cpus: 2}}\n")
    _, job = four_nodes(desk)
    told = log_of(desk, job)
    assert "saved; back into the queue for attempt 2" in told and "attempt 2 of at most 3" in told, told
    stubs = [line.split() for line in told.splitlines() if line.startswith("STUB")]
    serving, training = ({line[1] for line in stubs if word in line} for word in ("serve", "run"))
    assert len(serving) == len(training) == 2 and not serving & training, told
    assert sum("serve" in line for line in stubs) == 2 * 2 * 8, "one server for each GPU, in both attempts"
    parts = desk.cluster.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--Format=Partition,NumCPUs")
    assert [line.split() for line in parts.stdout.splitlines()] == [["gpu", "16"], ["urgent", "32"]]


def test_the_plan_and_the_script_say_which_node_serves(desk: Desk) -> None:
    desk.recipe("says", recipe(SHAPE))
    assert "servers 1 node, the last of 2: 1 engine" in " ".join(desk.aha("plan", "says.yaml").stdout.split())
    assert "of its 2 nodes 1 (the last) for rollouts" in desk.scripts("says.yaml")[0]
    (one_node,) = desk.scripts("says.yaml", "hardware.nodes=1", "hardware.parallel=none")
    assert "#SBATCH --nodes=1" in one_node and "aha serve" not in one_node, "there the stage starts its own"
    alone = desk.aha("run", "says.yaml", "--only", "grpo", check=False)
    assert alone.returncode == 1 and "rollout servers on 1 of its 2 nodes, and AHA_ROLLOUT_SERVERS" in alone.stderr
    assert json.loads(desk.aha("plan", "says.yaml", "--json").stdout)["stages"][0]["world_size"] == 1
