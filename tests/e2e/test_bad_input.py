"""What can be wrong besides the recipe: each is a clear message, an exit code, no traceback, and nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from nano import NANO, aha

CPT = NANO[: NANO.index("distill:")]
DISTILL = NANO[: NANO.index("cpt:")] + NANO[NANO.index("distill:") : NANO.index("grpo:")]


def refused(folder: Path, recipe: str, *said: str) -> None:
    (folder / "bad.yaml").write_text(recipe)
    done = aha("run", "bad.yaml", cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for words in said:
        assert words in done.stderr, done.stderr


def test_unknown_model_path(tmp_path: Path) -> None:
    recipe = CPT.replace(CPT[CPT.index("  from_scratch") : CPT.index("cpt:")], "  path: ./no-such-model\n")
    refused(tmp_path, recipe, "model ./no-such-model cannot be loaded", "check the name, or give a local folder")


def test_broken_json_lines_are_counted_and_named(tmp_path: Path) -> None:
    rows = ['{"text": "7 + 5 = 12"}', '{"text": "7 + 5 =', '{"text": "3 + 4 = 7"}']
    (tmp_path / "docs.jsonl").write_text("\n".join(rows))
    recipe = CPT.replace("{builtin: arithmetic/texts}", "{path: docs.jsonl}")
    refused(tmp_path, recipe, "1 of 3 rows cannot be used", "docs.jsonl:2: not JSON")


def test_an_empty_data_set(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text("")
    refused(tmp_path, CPT.replace("{builtin: arithmetic/texts}", "{path: docs.jsonl}"), "path:docs.jsonl: no rows")


def test_traces_that_are_all_longer_than_the_sequence(tmp_path: Path) -> None:
    row = {"prompt": "1 " * 100, "completion": "<think> </think> <answer> 1 </answer>"}
    (tmp_path / "traces.jsonl").write_text((json.dumps(row) + "\n") * 4)
    recipe = DISTILL.replace("{builtin: arithmetic/traces, rows: 200}", "{path: traces.jsonl}")
    refused(tmp_path, recipe, "all 4 traces are longer than distill.max_tokens 64")


def test_references_that_the_reward_misreads(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} + 1 ?", "answer": f"{n + 1}" if n else r"\frac{1}{\lceil x"} for n in range(40)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = NANO[: NANO.index("cpt:")] + NANO[NANO.index("grpo:") : NANO.index("eval:")]
    recipe = recipe.replace("{builtin: arithmetic/problems, rows: 40}", "{path: sums.jsonl}")
    refused(
        tmp_path, recipe, "grpo.data: of 40 problems, 1 cannot be trained", "path:sums.jsonl-0 (answer", "math_answer:"
    )
    assert not any((tmp_path / "runs" / "nano" / "3-grpo").glob("rollouts/*")), "nothing was trained on before"


def test_a_checkpoint_with_another_chat_format_is_refused_with_the_difference(tmp_path: Path, finished: Path) -> None:
    (tmp_path / "bad.yaml").write_text(DISTILL.replace("distill:", "chat: {system: Think first.}\ndistill:", 1))
    run = tmp_path / "runs" / "nano"
    run.mkdir(parents=True)
    (run / "0-base").symlink_to(finished / "0-base")
    done = aha("run", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert '- "system": null' in done.stderr.replace("-  ", "- ")
    assert "Think first." in done.stderr


def test_kernels_that_cannot_be_honoured_are_an_error(tmp_path: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU, where Liger's kernels run")
    refused(tmp_path, CPT.replace("cpt:", "kernels: liger\ncpt:", 1), "kernels: liger cannot be honoured", "need a GPU")


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 900 kilobytes, to be filled."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted as root")
    folder = tmp_path / "runs"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine does not allow mounts")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_while_saving_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "nano.yaml").write_text(CPT)
    first = aha("run", "nano.yaml", cwd=tmp_path)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "could not be saved" in first.stderr and "the newest good one is step-" in first.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    second = aha("run", "nano.yaml", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "resuming from step-" in second.stdout
