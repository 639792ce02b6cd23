"""Before step 1: the first micro-batch is computed fused and plain, from the same weights, and the two must agree.

A kernel that computes something else raises nothing; it trains something else. So loss and gradient of both ways are
compared, the numbers go into kernels.json, and a stage whose kernels disagree does not begin. It happens again after a
resume, with the weights of that moment, and changes nothing in the run (rehearsal.py).

The gradients are compared by their norms, and by the distance between them: two gradients of one length may point
elsewhere. The distance is estimated without holding both. For a vector r of random signs, r·(a - b) has the mean square
|a - b|² (Hutchinson 1990); one such product for each parameter tensor, and the squares summed over hundreds of them,
come within a few percent of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import convert_outputs_to_fp32

from aha.errors import KernelError
from aha.models.kernels import Kernels, lifted, verify
from aha.rundir import write_json
from aha.train.parallel import shares_weights
from aha.train.rehearsal import gradients, obstacle, rehearsal

MOST_LOGITS = 2**26
"""Tokens x vocabulary of what is compared: plain logits cost some 16 bytes for each, 1 GiB here."""

Batch = dict[str, Any]
Gather = Callable[[torch.Tensor], torch.Tensor]


class Tolerance(NamedTuple):
    """What two honest computations may differ by: in the loss, in the gradient's norm, and between the gradients.

    The loss's is a share of the loss, or of the mean |advantage| where that is larger, since a GRPO loss is a sum around
    0. The gradient's are shares of the plain gradient's norm.
    """

    loss: float
    grad_norm: float
    grad_distance: float


TOLERANCES = {
    # Only the order of the sums differs: 1e-6 measured, for every loss and preset.
    ("float32", "loss"): Tolerance(1e-4, 1e-4, 1e-3),
    ("float32", "layers"): Tolerance(1e-4, 1e-3, 2e-3),
    # bfloat16 has eight bits, 0.4 % of each value. The same layers are rounded alike, so only the head's products
    # differ: 0.005 between the gradients with 4 layers, 0.006 with 12; under ZeRO-3, which rounds gradients too, 0.009 with 2
    # and 0.013 with 30. Old and new logprobs of two precisions: 0.04, 0.1.
    ("bfloat16", "loss"): Tolerance(1e-2, 1e-2, 2e-2),
    # With kernels in the layers each rounding is drawn anew: the distance of either way from a float64 gradient is 0.005
    # with 4 layers, 0.012 with 12, and grows like the square root of the depth. From CPU; no GPU has been asked yet.
    ("bfloat16", "layers"): Tolerance(2e-2, 2e-2, 6e-2),
}
"""By the precision of the products, and by what is fused: the loss alone, or the layers too."""


class Parity:
    """Mixed in before a TRL trainer; `kernels` is set before `train`."""

    kernels: Kernels
    _compared = False

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss of one micro-batch; the first time, after the comparison.

        That the kernels are in the model at all can only be seen here: transformers puts them in when `train` begins.
        """
        if not self._compared:
            self._compared = True
            verify(self.kernels, self.accelerator.unwrap_model(model))  # type: ignore[attr-defined]
            self.compare(model, inputs, kwargs)
        return super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]

    def compare(self, model: Any, inputs: Batch, kwargs: dict[str, Any]) -> None:
        """Compute this micro-batch fused and plain, and record both. Raises KernelError when they disagree."""
        why = obstacle(self) if self.kernels.fused else "nothing is fused"
        if why:
            return self._note({"compared": False, "why": why})
        inner = self.accelerator.unwrap_model(model)  # type: ignore[attr-defined]
        part = self._part(inputs, inner.config.get_text_config().vocab_size)
        fused = self._measure(inner, part, kwargs)
        with self._plainly(inner):
            plain = self._measure(inner, part, kwargs)
        found = torch.tensor([[fused.loss, plain.loss, fused.norm, plain.norm, fused.distance(plain), _scale(part)]])
        rows = self.accelerator.gather(found.double().to(self.args.device)).tolist()  # type: ignore[attr-defined]
        self._judge(rows, part)

    def _measure(self, inner: Any, part: Batch, kwargs: dict[str, Any]) -> Measured:
        with rehearsal(self):
            loss = super().compute_loss(inner, dict(part), **kwargs)  # type: ignore[misc]
            gather = self.accelerator.gather if shares_weights(self) else None  # type: ignore[attr-defined]
            return Measured.of(loss, gradients(self, loss), gather)

    @contextmanager
    def _plainly(self, model: Any) -> Iterator[None]:
        """TRL's plain loss on the model without kernels."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        with ExitStack() as stack:
            stack.enter_context(lifted(base, self._cast))
            stack.enter_context(_set(self.args, use_liger_kernel=False))  # type: ignore[attr-defined]
            if self.args.loss_type == "chunked_nll":  # type: ignore[attr-defined]
                stack.enter_context(_set(self.args, loss_type="nll"))  # type: ignore[attr-defined]
            if hasattr(self, "use_liger_kernel"):
                stack.enter_context(_set(self, use_liger_kernel=False))
            yield

    def _cast(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward under autocast, as accelerate wraps it."""
        if not self.accelerator.native_amp:  # type: ignore[attr-defined]
            return forward

        def cast(*args: Any, **kwargs: Any) -> Any:
            with self.accelerator.autocast():  # type: ignore[attr-defined]
                return forward(*args, **kwargs)

        return convert_outputs_to_fp32(cast)

    def _part(self, inputs: Batch, vocabulary: int) -> Batch:
        """As many rows of the micro-batch, and then as many tokens, as plain logits have room for."""
        ids = inputs["completion_ids" if "completion_ids" in inputs else "input_ids"]
        most = max(1, MOST_LOGITS // vocabulary)
        room = torch.tensor([max(1, min(len(ids), most // ids.shape[1]))], device=ids.device)
        rows = int(self.accelerator.gather(room).min())  # type: ignore[attr-defined]  # TRL gathers one value per row
        if "completion_ids" in inputs:
            return _cut_completions(inputs, rows, most // rows)
        return _cut_rows(inputs, rows, most // rows)

    def _judge(self, rows: list[list[float]], part: Batch) -> None:
        """Write down what was found, and raise KernelError if it is too much. `rows`: one for each process."""
        precision = "bfloat16" if self.args.bf16 or next(self.model.parameters()).dtype == torch.bfloat16 else "float32"  # type: ignore[attr-defined]
        layers = bool(self.kernels.liger and self.kernels.liger["rms_norm"])
        tolerance = TOLERANCES[precision, "layers" if layers else "loss"]
        if not all(math.isfinite(row[1]) and math.isfinite(row[3]) for row in rows):  # not a kernel's: see finite.py
            return self._note({"compared": False, "why": "the plain loss or its gradient is not finite"})
        names = ("loss_fused", "loss_plain", "grad_norm_fused", "grad_norm_plain", "grad_distance")
        worst = max(rows, key=lambda row: _excess(row, tolerance))
        ids = part["completion_ids" if "completion_ids" in part else "input_ids"]
        record = {
            "compared": any(row[3] > 0 for row in rows),
            **dict(zip(names, worst, strict=False)),
            "dtype": precision,
            "tolerance": tolerance._asdict(),
            "step": self.state.global_step + 1,  # type: ignore[attr-defined]
            "rows": len(ids),
            "tokens": ids.numel(),
            "processes": len(rows),
        }
        self._note(record)
        # Without a gradient there was nothing to compare: look at the next, unless a step's gradient is being added up.
        self._compared = bool(record["compared"]) or shares_weights(self)
        if not _excess(worst, tolerance) <= 1:
            raise KernelError(self._refusal(record, tolerance))

    def _refusal(self, record: dict[str, Any], tolerance: Tolerance) -> str:
        fused = ", ".join(f"{kernel.kernel} ({kernel.by})" for kernel in self.kernels.fused)
        return (
            f"kernels: {self.kernels.requested} computes something else than the plain model does, from the same weights "
            f"and the same batch: loss {record['loss_fused']:.6g} fused, {record['loss_plain']:.6g} plain; gradient norm "
            f"{record['grad_norm_fused']:.6g} fused, {record['grad_norm_plain']:.6g} plain, and {record['grad_distance']:.3g} "
            f"of it between the two gradients. In {record['dtype']} at most {tolerance.loss:g}, {tolerance.grad_norm:g} and "
            f"{tolerance.grad_distance:g} of each are rounding. Fused were: {fused}. The step was not taken. Write kernels: torch "
            "to train without them; kernels.json has the numbers"
        )

    def _note(self, record: dict[str, Any]) -> None:
        if self.is_world_process_zero():  # type: ignore[attr-defined]
            folder = Path(self.args.output_dir).parents[1]  # type: ignore[attr-defined]
            write_json(folder / "kernels.json", self.kernels.record() | {"parity": record})


class Measured(NamedTuple):
    """A loss, the norm of its gradient, and the gradient's product with random signs, for each parameter tensor."""

    loss: float
    norm: float
    products: list[float]

    @classmethod
    def of(cls, loss: torch.Tensor, gradients: list[torch.Tensor], gather: Gather | None = None) -> Measured:
        """`gather` brings together what several processes have of one gradient: (n, 2) of each as one tensor."""
        generator = torch.Generator(gradients[0].device).manual_seed(0)
        rows = []
        for gradient in gradients:
            flat = gradient.float().flatten()
            signs = torch.empty_like(flat).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
            rows.append(torch.stack([flat.norm(), flat @ signs]))
        table = torch.stack(rows).double()
        table = gather(table) if gather else table
        return cls(float(loss.detach()), table[:, 0].norm().item(), table[:, 1].tolist())

    def distance(self, plain: Measured) -> float:
        """Between the two gradients, as a share of the plain one's norm."""
        apart = math.hypot(*(a - b for a, b in zip(self.products, plain.products, strict=True)))
        return apart / plain.norm if plain.norm else apart


def _excess(row: list[float], tolerance: Tolerance) -> float:
    """The largest difference of a process, as a multiple of what is tolerated; infinite if any number is not finite."""
    fused, plain, norm_fused, norm_plain, distance, scale = row
    if not all(map(math.isfinite, row)):
        return math.inf
    loss = abs(fused - plain) / (tolerance.loss * max(abs(plain), scale, 1e-12))
    norm = abs(norm_fused - norm_plain) / (tolerance.grad_norm * max(norm_plain, 1e-12))
    return max(loss, norm, distance / tolerance.grad_distance)


def _scale(part: Batch) -> float:
    return float(part["advantages"].abs().mean()) if "advantages" in part else 0.0


def _cut_rows(inputs: Batch, rows: int, tokens: int) -> Batch:
    """Packed rows: a window of each that begins where the first label is."""
    labels = inputs["labels"][:rows]
    labelled = (labels != -100).any(dim=0).nonzero()
    start = int(labelled[0]) - 1 if len(labelled) else 0
    start = max(0, min(start, labels.shape[1] - tokens))
    return {key: value[:rows, start : start + tokens] for key, value in inputs.items()}


def _cut_completions(inputs: Batch, rows: int, tokens: int) -> Batch:
    """The completions that have something to teach come first. If none has, they get the advantages 1, -1, 1, …"""
    part = dict(inputs)
    order = inputs["advantages"].abs().argsort(descending=True, stable=True)[:rows]
    for key, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.ndim:
            part[key] = value[order]
            if value.ndim == 2 and not key.startswith("prompt") and value.shape[1] > 1:
                part[key] = part[key][:, :tokens]
    if not part["advantages"].any():
        part["advantages"] = torch.ones_like(part["advantages"])
        part["advantages"][1::2] = -1
    return part


@contextmanager
def _set(owner: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
