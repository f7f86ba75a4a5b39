"""Options and messages as one OpenAI-compatible server takes them: learned from its refusals, told as `given_up`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from offline.completions import Choice
from offline.prompts import Message

_REFUSED = (400, 422)
_TOKEN_LIMITS = (4, 64, 512, 4_096)  # of an answer: one word, and what those need that think aloud
_LIMIT_NAMES = ("max_completion_tokens", "max_tokens")


class Dialect:
    """Options of chat requests and the form of their messages. What the server was found not to accept is not sent
    again; a request that was already under way when another found it is sent once more."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {
            "temperature": 0,
            "max_tokens": _TOKEN_LIMITS[0],
            "logprobs": True,
            "top_logprobs": 20,
        }
        self.given_up: dict[str, str] = {}  # what, and what it means
        self._has_system = True

    def messages(self, messages: Sequence[Message]) -> list[Mapping[str, str]]:
        """Messages as this server takes them."""
        if self._has_system:
            return [message._asdict() for message in messages]
        return [Message("user", "\n\n".join(message.content for message in messages))._asdict()]

    def adapt(self, reply: httpx.Response, sent: Mapping[str, Any]) -> bool:
        """Learn from a refusal of a body that was `sent`; False if there is nothing to be sent otherwise."""
        if reply.status_code not in _REFUSED:
            return False
        complaint = reply.text.lower()
        changes = (self._limit, self._alternatives, self._drop, self._merge)
        return any(change(complaint, sent) for change in changes)

    def _limit(self, complaint: str, sent: Mapping[str, Any]) -> bool:
        if "max_completion_tokens" not in complaint or "max_tokens" not in sent:
            return False
        if "max_tokens" in self.options:
            self.options["max_completion_tokens"] = self.options.pop("max_tokens")
        return True

    def _alternatives(self, complaint: str, sent: Mapping[str, Any]) -> bool:
        """A server may have a limit of its own on the alternatives that it lists."""
        if "logprob" not in complaint or "top_logprobs" not in sent:
            return False
        lower = [
            n for n in map(int, re.findall(r"(?<![\w.])\d{1,4}(?![\w.])", complaint)) if 1 < n < sent["top_logprobs"]
        ]
        if not lower:
            return False
        if self.options.get("top_logprobs", 0) > max(lower):
            self.options["top_logprobs"] = max(lower)
            self.given_up["top_logprobs"] = f"the server lists at most {max(lower)} alternatives of a word"
        return True

    def _drop(self, complaint: str, sent: Mapping[str, Any]) -> bool:
        refused = [name for name in ("top_logprobs", "logprobs", "temperature", *_LIMIT_NAMES) if name in complaint]
        if "logprobs" in refused or ("logprob" in complaint and not refused):
            refused += ["logprobs", "top_logprobs"]  # neither is allowed without the other
        refused = [name for name in refused if name in sent]
        for name in refused:
            if self.options.pop(name, None) is not None:
                self.given_up[name] = f"the server takes no {name}"
        return bool(refused)

    def _merge(self, complaint: str, sent: Mapping[str, Any]) -> bool:
        roles = [message["role"] for message in sent.get("messages", [])]
        if "system" not in roles or not re.search(r"system|developer|role", complaint):
            return False
        self._has_system = False
        self.given_up["system"] = "the server takes no system message; it is part of the question"
        return True

    def lengthen(self, choice: Choice, sent: Mapping[str, Any]) -> bool:
        """Allow longer answers after one that ended before its word came; False if it did not, or has all there is."""
        name = next((name for name in _LIMIT_NAMES if name in sent), None)
        if name is None or choice.finish_reason != "length":
            return False
        longer = next((limit for limit in _TOKEN_LIMITS if limit > sent[name]), None)
        if longer is None:
            return False
        if self.options.get(name, longer) < longer:
            self.options[name] = longer
            self.given_up["length"] = f"the model thinks aloud: up to {longer:,} tokens an answer"
        return True
