"""Patterns of tokenizers from outside are tried in a process that can be ended, since one may never be done with a text.

What a tokenizer does besides patterns takes a time that grows with the text. Its patterns are regular expressions with
backtracking, run by a library that can't be interrupted.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from embedkit.settings import UserError
from embedkit.weights import foreign

SECONDS = 10
"""Of one processor, for all texts; a pattern that ends takes far less than one."""
WAIT = 120
MEMORY = 4 << 30
HARMLESS = {
    *("Sequence", "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Strip", "StripAccents", "Precompiled"),
    *("BertPreTokenizer", "ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits", "UnicodeScripts"),
}
"""Kinds of steps that hold no pattern of their own."""
WELL_KNOWN = {
    " {2,}",
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
}
"""Patterns of tokenizers made from SentencePiece, and of GPT-2's, that are not tried."""
REPEATED = ("a", "0", " ", "\t", ".", "-", "a ", "ab", "aA0", "é", "中", "\n")
TRIED = tuple(piece * 1000 + end for piece in REPEATED for end in ("", "!"))
"""Texts on which patterns with nested repetition take long."""
TRY = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
from tokenizers import Tokenizer
tokenizer, texts = json.load(sys.stdin)
made = Tokenizer.from_str(tokenizer)
made.no_padding()
for text in texts:
    made.encode(text)
"""


def refuse_endless(tokenizer: str, name: str) -> None:
    """Stop before a tokenizer with a pattern is used that takes too long, or too much memory, on short texts.

    Args:
        tokenizer: the text of its `tokenizer.json`.
        name: of it, for messages.

    Raises:
        UserError: saying which pattern.
    """
    with foreign(f"{name} can't be read as a tokenizer", "take the complete folder of a network"):
        said = json.loads(tokenizer)
        doubtful = [step for part in ("normalizer", "pre_tokenizer") for step in _steps(said.get(part)) if not _is_plain(step)]
    if not doubtful:
        return
    shown = json.dumps(doubtful[0].get("pattern", doubtful[0]))
    advice = f"(its pattern {shown:.80}); take a network with another tokenizer"
    from embedkit.canaries import TEXTS

    code = TRY.format(memory=MEMORY, seconds=SECONDS)
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    given = json.dumps([tokenizer, [*TEXTS, *TRIED]])
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, input=given, capture_output=True, encoding="utf-8", timeout=WAIT, env=environment)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{name} doesn't get done with short texts in {WAIT} seconds {advice}") from error
    if done.returncode:
        why = f"takes more than {SECONDS} seconds" if done.returncode < 0 else "fails"
        raise UserError(f"{name} {why} on short texts {advice}")


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """Every step of a part of a tokenizer, however they are put together."""
    waiting = [part]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            if "type" in value:
                yield value
            waiting.extend(inner for inner in value.values() if isinstance(inner, list | dict))


def _is_plain(step: dict[str, Any]) -> bool:
    if step["type"] in HARMLESS:
        return True
    pattern = step.get("pattern")
    return isinstance(pattern, dict) and pattern.get("Regex") in WELL_KNOWN and len(str(step.get("content", ""))) <= 8
