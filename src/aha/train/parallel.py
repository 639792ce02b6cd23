"""Several processes: as many as were planned, training one model between them, and leaving one checkpoint.

A launch that goes wrong says nothing: it trains in one process, or several models side by side. So every process asks, at
its start and before its first micro-batch, whether the world is as large as the plan says and the model wrapped as the
recipe says; and what it found is written down in `processes.json`.

ddp     each process has the whole model, and gradients are averaged
zero2   DeepSpeed shares out gradients and optimiser (Rajbhandari et al. 2020, arXiv:1910.02054)
zero3   DeepSpeed shares out the weights too
fsdp2   torch's own sharding of weights, gradients and optimiser
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from aha.errors import StageError
from aha.recipe.plan import StagePlan
from aha.rundir import write_json
from aha.train.lora import merged

T = TypeVar("T")
ZERO = {"zero2": 2, "zero3": 3}
WRAPPERS = {
    "none": "",
    "ddp": "DistributedDataParallel",
    "zero2": "DeepSpeedEngine, stage 2",
    "zero3": "DeepSpeedEngine, stage 3",
    "fsdp2": "FSDPModule",
}
"""hardware.parallel -> what must stand around the model."""

PATIENCE = timedelta(minutes=30)
"""How long one process waits for another in a collective: rewards and saves of one rank are waited for by all."""


def join(stage: StagePlan, parallel: str, device: str) -> int:
    """Meet the other processes of a stage; returns this one's rank.

    Raises StageError when there are not as many as planned, before anything is trained or written.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != stage.world_size:
        raise StageError(
            f"{stage.directory} is planned for {stage.world_size} processes, and {started} {'was' if started == 1 else 'were'} started"
        )
    if started == 1:
        return 0
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if device == "cuda" else "gloo"
    if parallel in ZERO:
        import deepspeed  # its import takes seconds, and only ZeRO needs it

        if device == "cpu":
            # Not its own collectives in shared memory: they are compiled at first use, know one node only, and wait for
            # ever for a process that has died. gloo's are torch's, and report it.
            deepspeed.ops.__compatible_ops__ = {}
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, timeout=PATIENCE, verbose=False)
    else:
        dist.init_process_group(backend, timeout=PATIENCE)
    present = torch.ones(1, device=device)
    dist.all_reduce(present)
    if int(present) != stage.world_size:
        raise StageError(f"{stage.directory} is planned for {stage.world_size} processes, and {int(present)} met")
    return dist.get_rank()


def leave() -> None:
    """Part from the other processes, once all of them are done."""
    if _several():
        dist.barrier()
        dist.destroy_process_group()


def _several() -> bool:
    """A group of one is vLLM's, in a stage of one process."""
    return dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def first_goes_ahead(rank: int) -> Iterator[None]:
    """The first process does the work while the others wait; then they find it done."""
    if rank and _several():
        dist.barrier()
    yield
    if not rank and _several():
        dist.barrier()


def first_says(ask: Callable[[], T]) -> T:
    """What the first process finds, in every process: they must not decide differently. It is asked in that one only."""
    if not _several():
        return ask()
    told = [ask() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(told, 0)
    return cast(T, told[0])


def anywhere(answer: bool, device: torch.device | str) -> bool:
    """Whether any process says yes; the same in every process."""
    if not _several():
        return answer
    told = torch.tensor(float(answer), device=device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


def sharing(parallel: str, stage: StagePlan, device: str) -> dict[str, Any]:
    """What TRL's arguments must say for a way to share."""
    if stage.world_size == 1:
        return {}
    shared: dict[str, Any] = {"ddp_backend": "nccl" if device == "cuda" else "gloo"}
    if parallel == "ddp":
        return shared | {"ddp_find_unused_parameters": False}
    if parallel == "fsdp2":
        return shared | {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"}}
    return shared | {"deepspeed": _deepspeed(ZERO[parallel], device, prefetch=stage.name != "grpo")}


def _deepspeed(stage: int, device: str, prefetch: bool) -> dict[str, Any]:
    """DeepSpeed's configuration. `auto` is filled in by transformers from the trainer's arguments.

    GRPO's fused loss takes the output head past its module; a head that is on its way already, fetched ahead, would be
    given back before it is there.
    """
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": stage,
            "stage3_param_persistence_threshold": "auto",
            "stage3_prefetch_bucket_size": "auto" if prefetch else 0,
            "overlap_comm": device == "cuda",
            "stage3_gather_16bit_weights_on_model_save": True,  # whatever their type: a checkpoint of weights that load
        },
        "steps_per_print": 10**9,
    }


def wrapper_of(model: Any) -> str:
    """What stands around a model, in the words of WRAPPERS; empty for a bare one."""
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if "DeepSpeedEngine" in kinds:
        return f"DeepSpeedEngine, stage {model.zero_optimization_stage()}"
    return next((name for name in ("DistributedDataParallel", "FSDPModule") if name in kinds), "")


class Wrapped:
    """Mixed in before a TRL trainer: what the first micro-batch goes through is looked at, in every process."""

    parallel = "none"
    """hardware.parallel; of one process always none."""
    _looked = False

    def create_accelerator_and_postprocess(self) -> None:
        """Two corrections of FSDP as accelerate sets it up.

        On CPUs it becomes DDP without a word: their kind of processes is missing from a list, though torch shards over gloo
        too. In mixed bfloat16, gradients are averaged in bfloat16, and whatever enters or leaves the model is rounded to it:
        GRPO's log-probabilities, then ten times further from the engine's, and its advantages.
        """
        args = self.args  # type: ignore[attr-defined]
        if args.fsdp and args.device.type == "cpu":
            PartialState().distributed_type = DistributedType.MULTI_XPU
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        if args.fsdp and args.bf16:
            policy = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = policy  # type: ignore[attr-defined]

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch, forward and backward; returns its loss, a scalar."""
        if not self._looked:
            self._look(model)
            self._looked = True
        return super().training_step(model, *args, **kwargs)  # type: ignore[misc]

    def _look(self, model: Any) -> None:
        found, expected = wrapper_of(model), WRAPPERS[self.parallel]
        if found != expected:
            raise StageError(
                f"hardware.parallel is {self.parallel}, which is {expected or 'the bare model'}, "
                f"but what would be trained is {found or 'the bare model'}"
            )
        if not _several():
            return
        if self.parallel == "zero3" and self.args.use_liger_kernel:  # type: ignore[attr-defined]
            _share_the_head(self)
        told: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(told, _this_process(self.args.device))  # type: ignore[attr-defined]
        if self.is_world_process_zero():  # type: ignore[attr-defined]
            folder = Path(self.args.output_dir).parents[1]  # type: ignore[attr-defined]
            facts = {"world_size": len(told), "parallel": self.parallel, "model_in": found}
            write_json(folder / "processes.json", facts | {"backend": dist.get_backend(), "ranks": told})


def _share_the_head(trainer: Any) -> None:
    """With ZeRO-3, the model as a whole also needs its output head: gather it with the model, in both directions.

    Liger's losses multiply by its weight without calling its module. TRL gathers it for the forward pass; but torch lays
    a gradient out as its weight is laid out at that moment, and cannot where the weight is gone.
    """
    import deepspeed

    inner = trainer.accelerator.unwrap_model(trainer.model)
    for parameter in inner.get_output_embeddings().parameters():
        deepspeed.zero.register_external_parameter(inner, parameter)


def _this_process(device: torch.device) -> dict[str, Any]:
    return {
        "rank": dist.get_rank(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def shares_weights(trainer: Any) -> bool:
    """Whether each process holds a part of every weight, so that none can compute alone: ZeRO-3 and FSDP."""
    return wrapper_of(trainer.model_wrapped) in (WRAPPERS["zero3"], WRAPPERS["fsdp2"])


def own_share(weight: torch.Tensor) -> torch.Tensor:
    """The entries of a weight that this process holds: all of them, unless ZeRO-3 or FSDP shares it out."""
    if hasattr(weight, "ds_tensor"):
        return weight.ds_tensor.flatten()[: _held(weight)]
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _held(weight: Any) -> int:
    """ZeRO-3's shares are of one size: the last ones are filled up, with whatever was in that memory."""
    size = weight.ds_tensor.ds_numel
    return min(size, max(0, weight.ds_numel - dist.get_rank() * size))


def shared_gradients(trainer: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    """The gradient of the processes' mean loss: of each trained parameter the share that this process holds. A collective.

    No gradient may have been added up before, and none is there afterwards.
    """
    if wrapper_of(trainer.model_wrapped) == WRAPPERS["zero3"]:
        from deepspeed.utils import safe_get_local_grad

        engine = trainer.model_wrapped
        engine.backward(loss, scale_wrt_gas=False)
        engine.optimizer.zero_grad()  # leaves the values, to be read here and overwritten by the next backward pass
        trained = [one for one in engine.module.parameters() if one.requires_grad]
        return [safe_get_local_grad(one).flatten()[: _held(one)] for one in trained]
    model = trainer.model_wrapped
    model.set_requires_gradient_sync(True)
    loss.backward()
    model.set_requires_gradient_sync(trainer.accelerator.sync_gradients)
    found = [own_share(one.grad) for one in model.parameters() if one.grad is not None]
    model.zero_grad()
    return found


# --- one checkpoint of many parts ----------------------------------------------------------------------------------


def consolidated(trainer: Any) -> tuple[Any, dict[str, torch.Tensor] | None]:
    """The trained model with its adapters merged, and its weights where they are not in it. A collective.

    The weights are float32 and in the first process only; None says that the model has them itself. DeepSpeed keeps them
    in its optimiser: the model's own are bfloat16, or (stage 3) a share.
    """
    model, parallel = trainer.model, trainer.parallel
    if parallel == "fsdp2":
        return _whole_fsdp(model, trainer.accelerator.get_state_dict(model))
    if hasattr(model, "merge_and_unload"):
        return _merged_zero3(model) if parallel == "zero3" else (merged(model), None)
    if parallel not in ZERO:
        return model, None
    from deepspeed.utils import safe_get_full_fp32_param

    weights: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        whole = safe_get_full_fp32_param(parameter)
        if trainer.is_world_process_zero():
            weights[name] = whole.detach().cpu().clone()
    return model, weights


def _merged_zero3(model: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Adapters can be merged into whole weights only, so all are gathered at once."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        whole = merged(model)
        return whole, {name: weight.detach().float().cpu().clone() for name, weight in whole.named_parameters()}


def _whole_fsdp(model: Any, weights: dict[str, torch.Tensor]) -> tuple[Any, dict[str, torch.Tensor]]:
    """`weights` are all of them in the first process, where adapters are merged into them, and none in the others."""
    if not weights or not hasattr(model, "merge_and_unload"):
        return model, {name: weights[name] for name, _ in model.named_parameters() if weights}
    whole: dict[int, torch.nn.Parameter] = {}
    for name, share in list(model.named_parameters(remove_duplicate=False)):  # tied ones are one, before and after
        module, _, last = name.rpartition(".")
        whole.setdefault(id(share), torch.nn.Parameter(weights[name], requires_grad=False))
        setattr(model.get_submodule(module), last, whole[id(share)])
    return (one := merged(model)), dict(one.named_parameters())
