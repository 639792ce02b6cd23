"""What every stage does the same way: find its input, note what it is doing, and hand over a finished checkpoint."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from aha import handoff
from aha.data.chat import ChatFormat
from aha.data.sources import Tally
from aha.models import kernels
from aha.models.load import load_model, load_tokenizer
from aha.recipe.plan import Plan, StagePlan
from aha.rundir import RunDir, write_json
from aha.train import heartbeat
from aha.train.checkpoints import newest_good
from aha.train.parallel import consolidated, first_goes_ahead, first_says
from aha.train.trainer import Journal
from aha.types import Checkpoint


@dataclass
class Context:
    """One stage at work."""

    plan: Plan
    stage: StagePlan
    run: RunDir
    started: float
    rank: int = 0
    """Which of the stage's processes this is. Only the first writes what all of them would write alike."""

    @property
    def folder(self) -> Path:
        return self.run.stage(self.stage.name)

    @property
    def device(self) -> str:
        return self.plan.device

    def receive(self) -> Checkpoint:
        """The checkpoint this stage starts from."""
        with first_goes_ahead(self.rank):  # it writes the base down
            checkpoint = handoff.checkpoint_of(self.stage.parent, self.plan.recipe, self.run.root)
        if origin := handoff.origin_of(Path(checkpoint.path)):
            self.say(f"model: {origin}")
        return checkpoint

    def open_model(self, parent: Checkpoint) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        set_seed(self.plan.recipe.seed)
        return load_model(parent, self.plan.recipe.model, self.device), load_tokenizer(parent)

    def choose_kernels(self, architecture: str, plain: str | None = None) -> kernels.Kernels:
        """What this stage runs fused; `plain` says why its loss cannot be, where it cannot."""
        chosen = kernels.choose(self.stage.name, self.plan.recipe.kernels, self.device, architecture, plain)
        if self.rank == 0:
            write_json(self.folder / "kernels.json", chosen.record())
        return chosen

    def note(self, steps: int, tallies: list[Tally], **facts: Any) -> None:
        """Write what the watcher needs to know before the first step: config.json and data.json."""
        if self.rank:
            return
        write_json(self.folder / "config.json", self.stage.model_dump(mode="json") | {"steps": steps})
        write_json(self.folder / "data.json", {"sources": [asdict(tally) for tally in tallies]} | facts)

    def resume_point(self) -> tuple[Path | None, int]:
        """The newest intact checkpoint of this stage, and its step; says which damaged ones it passed over."""
        checkpoint, remarks = first_says(lambda: newest_good(self.folder / "checkpoints"))
        for remark in remarks:
            self.say(remark)
        if checkpoint is None:
            return None, 0
        self.say(f"resuming from {checkpoint.name}")
        return checkpoint, int(checkpoint.name.removeprefix("step-"))

    def say(self, line: str) -> None:
        """A line for the person who watches: the parent process shows what is written here."""
        if self.rank:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "remarks.txt").open("a") as file:
            file.write(line + "\n")

    def finish(
        self, trainer: Any, tokenizer: PreTrainedTokenizerBase, parent: Checkpoint, steps: int, journal: Journal
    ) -> None:
        """Hand over what was trained, and say that the stage has finished."""
        model, weights = consolidated(trainer)
        if self.rank:
            return
        chat_format = ChatFormat.load(Path(parent.path))
        with heartbeat.phase("save"):
            checkpoint = handoff.hand_over(model, tokenizer, chat_format, self.folder / "model", weights)
        now = time.time()
        self.run.mark_done(
            self.stage.name,
            {
                "stage": self.stage.name,
                "inputs_hash": self.stage.inputs_hash,
                "parent": parent.fingerprint,
                "checkpoint": asdict(checkpoint),
                "started": self.started,
                "finished": now,
                "seconds": round(now - self.started, 2),
                "startup_seconds": round((journal.first_step_at or now) - self.started, 2),
                "steps": steps,
                "processes": self.stage.world_size,
                "tokens": journal.tokens,
                "memory": peak_memory(self.device),
            },
        )


def peak_memory(device: str) -> dict[str, Any]:
    """The most memory that this process has held, GiB, and whose word that is: torch's on a GPU, the kernel's on a CPU."""
    if device == "cuda":
        return {"gib": torch.cuda.max_memory_allocated() / 2**30, "measure": "torch.cuda.max_memory_allocated"}
    lines = Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else []
    kib = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    if kib is None:
        unit = 1 if sys.platform == "darwin" else 1024
        return {"gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, "measure": "ru_maxrss"}
    return {"gib": kib / 2**20, "measure": "VmHWM"}
