"""What an engine returns."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Output:
    """A request and what came of it.

    prompt_token_ids, token_ids  the prompt; what was generated, the ending token included
    text                what was generated, without special tokens and what ended it; "" without a
                        tokenizer
    logprobs            of each generated token, in the model's own distribution; [] unless
                        SamplingParams.logprobs asks for them
    top_logprobs        for each generated token {token id: its log-probability}, likeliest first
    finish_reason       "stop" (an ending token or string), "length", "abort", "error"; None: still
                        running
    stop_reason         the token id or string that ended it
    error               what was wrong, with finish_reason "error"
    cached_tokens       tokens of the prompt that need not be computed: found in the cache, or
                        borrowed
    borrowed_tokens     of these, those that another request was computing in the same step
    preemptions         how often its blocks were given to older requests
    time_to_first_token seconds from add() to the first generated token; None before
    """

    request_id: int
    prompt_token_ids: list[int]
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    error: Exception | None = None
    cached_tokens: int = 0
    borrowed_tokens: int = 0
    preemptions: int = 0
    time_to_first_token: float | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(frozen=True)
class Event:
    """What a step did to a request.

    token_ids  generated in this step
    text       new text, never with a part of a stop string in it
    finished   no more events of this request follow
    output     the request so far
    """

    request_id: int
    token_ids: tuple[int, ...]
    text: str
    finished: bool
    output: Output
