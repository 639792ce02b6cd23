"""Choosing and starting a rollout engine. The choice is never silent: it comes with its reason."""

from __future__ import annotations

import importlib.util

from aha.errors import EngineError
from aha.rollout.engine import EngineChoice, EngineLimits, LocalEngine


def choose_engine(wanted: str) -> EngineChoice:
    """`auto` takes vLLM where it is installed, and transformers elsewhere.

    Raises EngineError when vLLM was demanded by name and is not installed.
    """
    installed = importlib.util.find_spec("vllm") is not None
    if wanted == "transformers":
        return EngineChoice("transformers", "the recipe asks for it")
    if installed:
        return EngineChoice("vllm", "vLLM is installed")
    if wanted == "vllm":
        raise EngineError(
            "engine: vllm was asked for, but vLLM is not installed; run `make setup`, or write engine: auto"
        )
    return EngineChoice("transformers", "vLLM is not installed on this machine; generation is slower")


def start_engine(choice: EngineChoice, model_path: str, limits: EngineLimits, seed: int) -> LocalEngine:
    """Start the chosen engine on the weights of a Hugging Face directory."""
    if choice.name == "vllm":
        from aha.rollout.vllm import VllmEngine

        return VllmEngine(model_path, limits, seed)
    from aha.rollout.transformers import TransformersEngine

    return TransformersEngine(model_path, limits)
