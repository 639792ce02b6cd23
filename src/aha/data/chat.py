"""How a conversation becomes token ids, and the promise that every stage means the same by it.

The chat format (template, end and pad tokens, think and answer tags, system prompt) is saved in each checkpoint as
`chat_format.json`. A stage compares its input's with the recipe's and refuses a difference: a model trained on one
template and sampled with another is the quietest way to lose ten points.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from aha.errors import CheckpointError, DataError
from aha.recipe.schema import Chat

FILE = "chat_format.json"
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' -%}
{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else -%}
{{ message['content'] + '<|im_end|>\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""


@dataclass(frozen=True)
class ChatFormat:
    """Everything that must be the same in every stage for the model to be the same model."""

    template: str
    end_token: str
    pad_token: str
    system: str | None
    think: tuple[str, str]
    answer: tuple[str, str]

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def load(folder: Path) -> ChatFormat:
        """Raises CheckpointError when the folder holds no chat format."""
        try:
            fields = json.loads((folder / FILE).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise CheckpointError(
                f"{folder / FILE} cannot be read: {error}; is {folder} a checkpoint of aha?"
            ) from error
        try:
            return ChatFormat(**fields | {"think": tuple(fields["think"]), "answer": tuple(fields["answer"])})
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / FILE} is no chat format of aha: {error}") from error


def apply_format(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Make `tokenizer` speak the recipe's chat format, and return it.

    Raises DataError when the template needs tokens that the tokenizer does not have as single tokens, when it cannot be
    read, or when it does not mark the assistant's words with `{% generation %}`.
    """
    if chat.template == "chatml":
        for token in ("<|im_start|>", "<|im_end|>"):
            if len(tokenizer(token, add_special_tokens=False).input_ids) != 1:
                raise DataError(
                    f"chat.template: chatml needs {token} as one token; this tokenizer splits it. "
                    "Use keep, or a Jinja file"
                )
        tokenizer.chat_template = CHATML
        tokenizer.eos_token = "<|im_end|>"
    elif chat.template != "keep":
        tokenizer.chat_template = _read_template(chat.template)
    if not tokenizer.chat_template or not GENERATION.search(tokenizer.chat_template):
        raise DataError(
            f"chat.template: {chat.template} does not mark the assistant's words with {{% generation %}} … "
            "{% endgeneration %}, so the loss could not be limited to them. Use chatml, or a Jinja file that does"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return ChatFormat(
        tokenizer.chat_template,
        str(tokenizer.eos_token),
        str(tokenizer.pad_token),
        chat.system,
        chat.think,
        chat.answer,
    )


def _read_template(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"chat.template: {path} cannot be read ({error}); expected chatml, keep, or the path of a Jinja file"
        ) from error


def require_same(found: ChatFormat, wanted: ChatFormat, where: str) -> None:
    """Raises CheckpointError, with the difference, when a checkpoint's chat format is not the recipe's."""
    if found == wanted:
        return
    differences = difflib.unified_diff(
        json.dumps(asdict(found), indent=1).replace("\\n", "\n").splitlines(),
        json.dumps(asdict(wanted), indent=1).replace("\\n", "\n").splitlines(),
        f"{where} (checkpoint)",
        "the recipe",
        lineterm="",
        n=1,
    )
    raise CheckpointError(
        f"{where} was trained with another chat format than this recipe's chat block describes:\n"
        + "\n".join(differences)
    )


def messages_of(prompt: str, system: str | None) -> list[dict[str, str]]:
    """A single question as chat messages."""
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of the conversation up to where the assistant begins to write. Shape (prompt length,)."""
    encoded: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


def training_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Token ids of a whole conversation, and its labels: -100 everywhere but on the assistant's tokens.

    Raises DataError when no token would be trained on.
    """
    encoded: Any = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    ids, mask = list(encoded["input_ids"]), list(encoded["assistant_masks"])
    if not any(mask):
        raise DataError(f"no assistant token in the conversation that begins {str(messages)[:120]!r}")
    return ids, [token if trained else -100 for token, trained in zip(ids, mask, strict=True)]
