"""Low-rank adapters: the recipe's `lora:` block as PEFT's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aha.recipe.schema import Lora

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


def lora_config(lora: Lora | None) -> LoraConfig | None:
    """PEFT's configuration over all linear layers, or None for full fine-tuning."""
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def merged(model: Any) -> PreTrainedModel:
    """The model with its adapters folded into the weights; a model without adapters as it is."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
