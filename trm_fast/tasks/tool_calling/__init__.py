"""Tool calling: conversations with tools, their formats on disk, and the tasks whose models choose or write calls.

Other packages import only the names below. The subpackages are ``data`` (conversations and their files), ``text``
(tokenizers, words, values), and one for each task: ``slots``, ``select`` and ``generate``.
"""

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool, Turn, checked, read_tools
from trm_fast.tasks.tool_calling.data.drawing import draw_conversation
from trm_fast.tasks.tool_calling.data.formats import formats
from trm_fast.tasks.tool_calling.data.io import write
from trm_fast.tasks.tool_calling.data.loading import (
    Loaded,
    Refusal,
    load,
    load_nonempty,
    read_rows,
    refusal_note,
    split_counts,
    split_rows,
)
from trm_fast.tasks.tool_calling.data.refused import Refused
from trm_fast.tasks.tool_calling.data.validation import problems
from trm_fast.tasks.tool_calling.matching import ast_match
from trm_fast.tasks.tool_calling.task import Prediction, ToolTask
from trm_fast.tasks.tool_calling.text.tokenizer import texts, train_tokenizer

__all__ = [
    "Call",
    "Conversation",
    "Loaded",
    "Prediction",
    "Refusal",
    "Refused",
    "Tool",
    "ToolTask",
    "Turn",
    "ast_match",
    "checked",
    "draw_conversation",
    "formats",
    "load",
    "load_nonempty",
    "problems",
    "read_rows",
    "read_tools",
    "refusal_note",
    "split_counts",
    "split_rows",
    "texts",
    "train_tokenizer",
    "write",
]
