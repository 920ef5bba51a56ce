"""A transformers Cache for model.generate(), with prefixes shared from call to call.

    cache = RadixCache(model)
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)  # padding at the left
    cache.begin(**inputs)  # the cached prefix, leased
    sequences = model.generate(**inputs, past_key_values=cache, max_new_tokens=32)
    cache.finish(sequences)  # the next call finds it all

or cache.generate(**inputs, max_new_tokens=32), which does these three. A Cache is never told token
ids, so begin() and finish() are. generate() itself leaves out the columns that a cache says it has;
in a batch that is what all rows have: rows with a longer cached prefix compute some of it again,
and nothing is written twice.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from radixattn.context import Context
from radixattn.hf import attention
from radixattn.hf.models import UnsupportedModelError, check_context, geometry, make_context
from radixattn.hf.paged import PagedCache
from radixattn.hf.step import Step, finish_launches
from radixattn.plan import Plan
from radixattn.request import Request
from radixattn.results import AppendResult
from radixattn.tensors import Array

if TYPE_CHECKING:
    from typing_extensions import Self


class _Row:
    """One sequence of the batch. Columns are the batch's, tokens the row's own: column = pad +
    token."""

    def __init__(self, request: Request, tokens: Array, pad: int) -> None:
        assert request.match is not None
        self.request = request
        self.tokens = tokens  # int32, those that are known
        self.pad = pad
        self.reserved = self.before = self.cached = request.match.cached_tokens
        self.published = self.cached

    def fork(self, request: Request) -> _Row:
        copy = object.__new__(_Row)
        copy.__dict__.update(self.__dict__, request=request)
        return copy


class RadixCache(PagedCache):
    """A Cache over a context; lives as long as you like, one batch at a time.

    model            a transformers causal language model (see models.py)
    ctx              a Context for the model (make_context), which an Engine may use, too; None: one
                     of its own, which close() ends
    any_family       see models.geometry
    context_options  of its own context, as Context's: num_blocks, memory_budget, block_size, ...
    Sets the model's attention implementation to "radixattn" until close(). One thread.
    """

    def __init__(
        self,
        model: Any,
        *,
        ctx: Context | None = None,
        any_family: bool = False,
        **context_options: Any,
    ) -> None:
        if ctx is not None and context_options:
            raise TypeError(f"ctx has its own {', '.join(sorted(context_options))}")
        self.shape = geometry(model, any_family=any_family)
        super().__init__(model, self.shape.num_layers)
        self._owns_ctx = ctx is None
        self.ctx = ctx or make_context(model, any_family=any_family, **context_options)
        check_context(self.ctx, self.shape)
        self._rows: list[_Row] = []
        self._columns = 0  # that every layer has
        self._prompt_columns = 0
        self._step: Step | None = None
        self._step_columns = 0
        self._publishable = True
        self._plan: Plan | None = None
        self._plan_size = (0, 0)
        self._open = True
        attention.use(model)

    # ---- life

    def close(self) -> None:
        """Ends the batch, the plan and the cache's own context, and sets the model's attention
        implementation back. A second close does nothing."""
        if not self._open:
            return
        self._open = False
        self.reset()
        finish_launches(self.shape)
        if self._plan is not None:
            self._plan.close()
        if self._owns_ctx:
            self.ctx.close()
        attention.release(self.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # ---- a batch

    def begin(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        expand: int = 1,
        extra_key: int = 0,
        **_others: Any,
    ) -> list[int]:
        """Begins a batch, ending the one before; returns how many tokens of each row are cached.

        input_ids       [batch, columns] whole prompts, as generate() will get them
        attention_mask  [batch, columns] zeros for padding, at the left only; None: no padding
        expand          how often generate() repeats each row: num_beams or num_return_sequences
        extra_key       rows share blocks only when theirs are equal
        ValueError: a shape, padding that is not at the left. RuntimeError: the cache is closed.
        """
        if not self._open:
            raise RuntimeError("the cache is closed")
        self.reset()
        pads = _left_padding(input_ids, attention_mask)
        tokens = input_ids.to("cpu", torch.int32).numpy()
        for row, pad in zip(tokens, pads, strict=True):
            for _ in range(expand):
                known = np.ascontiguousarray(row[pad:])
                request = self.ctx.begin(known, extra_key=extra_key)
                self._rows.append(_Row(request, known, pad))
        # What every row has; a row's padding counts as there.
        self._columns = min(row.pad + row.cached for row in self._rows)
        self._prompt_columns = tokens.shape[1]
        return [row.cached for row in self._rows]

    def finish(self, sequences: torch.Tensor | None = None) -> None:
        """Ends the batch. Prompts stay cached, and with sequences [batch, columns], what generate()
        returned, the generated tokens, too (not after beam search, which reorders rows)."""
        if sequences is not None and self._publishable and self._rows:
            ids = sequences.to("cpu", torch.int32).numpy()
            if len(ids) != len(self._rows) or ids.shape[1] < self._columns:
                raise ValueError(
                    f"sequences has shape {tuple(ids.shape)}: expected {len(self._rows)} rows of "
                    f"at least {self._columns} columns"
                )
            for row, values in zip(self._rows, ids, strict=True):
                known = len(row.tokens)
                row.tokens = np.ascontiguousarray(values[row.pad : self._columns])
                if len(row.tokens) > known:
                    row.request.set_tokens(known, row.tokens[known:])
            self._publish()
        self.reset()

    def generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **options: Any
    ) -> Any:
        """begin, model.generate and finish. Returns what model.generate does."""
        config = options.get("generation_config") or self.model.generation_config
        copies = [options.get(n) or getattr(config, n, None) or 1 for n in _COPIES]
        self.begin(input_ids, attention_mask, expand=max(copies))
        try:
            result = self.model.generate(
                input_ids, attention_mask=attention_mask, past_key_values=self, **options
            )
        except BaseException:
            self.reset()
            raise
        self.finish(getattr(result, "sequences", result))
        return result

    def reset(self) -> None:
        """Ends the batch without its generated tokens; what was published stays cached."""
        for row in self._rows:
            row.request.free()
        self._rows, self._columns, self._step = [], 0, None
        self._publishable = True

    @property
    def cached_tokens(self) -> list[int]:
        """Tokens of each row's prompt that were cached when the batch began."""
        return [row.cached for row in self._rows]

    # ---- what transformers calls

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._columns

    @property
    def batch_size(self) -> int:
        return len(self._rows) or -1

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i becomes what row beam_idx[i] was: blocks are shared, copied on the next write."""
        self._select(beam_idx.tolist())

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps the rows indices."""
        if indices.dtype == torch.bool:
            indices = indices.nonzero().flatten()
        self._select(indices.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row repeats times, side by side."""
        self._select([i for i in range(len(self._rows)) for _ in range(repeats)])

    def activate_past_recording(self) -> None:
        """Assisted generation begins with this, and computes whole prompts, whatever is cached."""
        raise UnsupportedModelError(
            "assisted generation (assistant_model, prompt_lookup_num_tokens) computes the prompt "
            "again behind a cached prefix: expected greedy, sampling or beam search"
        )

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last -tokens_to_remove columns."""
        if tokens_to_remove > 0:
            raise ValueError(f"tokens_to_remove is {tokens_to_remove}: expected 0 or less")
        if tokens_to_remove:
            self._cut(max(self._columns + tokens_to_remove, 0))

    # ---- a forward pass

    def step_of(self, layer: int, batch: int, length: int) -> Step:
        if self._step is None or layer == 0:
            self._step = self._begin_step(batch, length)
        return self._step

    def written(self, layer: int) -> None:
        if layer + 1 < self.shape.num_layers:
            return
        # K/V of the last layer are there; its attention reads through the same step.
        self._columns += self._step_columns
        self._step_columns = 0
        self._publish()

    def _begin_step(self, batch: int, length: int) -> Step:
        if batch != len(self._rows):
            raise ValueError(
                f"the batch has {batch} rows, and the cache was begun with {len(self._rows)}: "
                "expected begin(input_ids, attention_mask) before generate(), with expand= the "
                "number of beams or sequences returned"
            )
        if self._step_columns:  # the forward pass before did not come to its end
            self._undo_step()
        end = self._columns + length
        self._step_columns = length
        slots = self._reserve(end)
        lengths = [max(end - row.pad, 0) for row in self._rows]
        queries = [min(n, length) for n in lengths]
        plan = self._sized_plan(len(self._rows), sum(queries))
        decode = all(n == 1 for n in queries)
        tables, _ = self.ctx.block_tables([row.request for row in self._rows])
        plan.update_tables(tables, lengths, None if decode else queries)
        return Step(
            self.ctx, plan, decode, self._on_device(slots),
            *self._padding(queries, length, end),
        )  # fmt: skip

    def _reserve(self, end: int) -> Array | torch.Tensor:
        """Slots of the rows' tokens in columns [self._columns, end), row after row; -1 where K/V
        are there already."""
        for row in self._rows:
            row.before = row.reserved
        grown = [(row, end - row.pad - row.reserved) for row in self._rows]
        grown = [(row, n) for row, n in grown if n > 0]
        slots_of: dict[int, Array] = {}
        for row, new in grown:
            known = row.tokens[row.reserved : row.reserved + new]
            slots_of[id(row)] = self._append(row, known, new)
        pieces = []
        for row in self._rows:
            first = max(self._columns - row.pad, 0)
            count = max(end - row.pad, 0) - first
            new_slots = slots_of.get(id(row), np.empty(0, np.int64))
            pieces += [np.full(count - len(new_slots), -1, np.int64), new_slots]
        return np.concatenate(pieces)

    def _append(self, row: _Row, known: Array, count: int) -> Array:
        """Slots for count more tokens of a row, whose first ids are known."""
        slots = []
        if len(known):
            slots.append(self._appended(row, row.request.append(known)))
        if count > len(known):
            slots.append(self._appended(row, row.request.append(count=count - len(known))))
        return np.concatenate(slots)

    def _appended(self, row: _Row, result: AppendResult) -> Array:
        """Takes note of an append at once, so that what follows may fail; returns its slots."""
        self.ctx.run_ops(result.ops)
        row.reserved += len(result.slots)
        return result.slots

    def _padding(
        self, queries: list[int], length: int, end: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Step.rows and Step.mask; (None, None) without padding."""
        if not any(row.pad for row in self._rows):
            return None, None
        device = self.shape.device
        mask = torch.tensor([[row.pad] for row in self._rows], device=device)
        visible = torch.arange(end, device=device)[None, :] >= mask
        if sum(queries) == length * len(queries):
            return None, visible
        rows = visible[:, end - length :].flatten().nonzero().flatten()
        return rows, visible

    def _sized_plan(self, seqs: int, queries: int) -> Plan:
        """A plan with room for a step; made anew when it must grow."""
        if self._plan is None or seqs > self._plan_size[0] or queries > self._plan_size[1]:
            size = (max(seqs, self._plan_size[0]), max(queries, seqs, 2 * self._plan_size[1]))
            if self._plan is not None:
                finish_launches(self.shape)
                self._plan.close()
            self._plan = self.ctx.plan(
                size[0], num_q_heads=self.shape.num_q_heads, max_query_tokens=size[1]
            )
            self._plan_size = size
        return self._plan

    def _on_device(self, slots: Any) -> Any:
        if self.shape.device.type == "cpu":
            return slots
        return torch.from_numpy(slots).to(self.shape.device)

    # ---- rows

    def _publish(self) -> None:
        """Full blocks whose token ids are known become visible to others."""
        rows = [(row, min(self._columns - row.pad, len(row.tokens))) for row in self._rows]
        rows = [(row, n) for row, n in rows if n > row.published]
        if rows:
            self.ctx.commit([row.request for row, _ in rows], [n for _, n in rows])
        for row, n in rows:
            row.published = n

    def _undo_step(self) -> None:
        """Slots of a forward pass that did not come to its end are given back."""
        for row in self._rows:
            if row.reserved > row.before:
                row.request.truncate(row.before)
                row.reserved = row.before
        self._step_columns, self._step = 0, None

    def _cut(self, columns: int) -> None:
        """The batch ends at a column; what followed may come again as other tokens."""
        for row in self._rows:
            length = max(columns - row.pad, 0)
            if row.reserved > length:
                row.request.truncate(length)
                row.reserved = length
            row.tokens = row.tokens[:length]
            row.published = min(row.published, length)
        self._columns, self._step = columns, None

    def _select(self, indices: list[int]) -> None:
        """Row i becomes the row indices[i] that was."""
        self._publishable = False  # generate() returns other rows than these
        if indices == list(range(len(self._rows))):
            return
        self._name_unknown()
        copies = Counter(indices)
        forks = {
            i: [self._rows[i].fork(r) for r in self._rows[i].request.fork(n - 1)]
            for i, n in copies.items()
            if n > 1
        }
        for i, row in enumerate(self._rows):
            if i not in copies:
                row.request.free()
            else:
                forks.setdefault(i, []).append(row)
        self._rows = [forks[i].pop() for i in indices]
        self._step = None

    def _name_unknown(self) -> None:
        """Forks need token ids: generated ones get -1, and are never published."""
        for row in self._rows:
            missing = row.reserved - max(len(row.tokens), row.request.info().known_tokens)
            if missing > 0:
                start = row.reserved - missing
                row.request.set_tokens(start, np.full(missing, -1, np.int32))


_COPIES = ("num_beams", "num_return_sequences")


def _left_padding(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[int]:
    """Columns of padding at the left of each row."""
    if input_ids.ndim != 2 or 0 in input_ids.shape:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}: expected [batch, columns]")
    if attention_mask is None:
        return [0] * len(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: expected that of input_ids, "
            f"{tuple(input_ids.shape)}"
        )
    ones = attention_mask.bool()
    pads: list[int] = (~ones).sum(-1).tolist()
    for i, pad in enumerate(pads):
        if pad == ones.shape[1] or not bool(ones[i, pad:].all()):
            raise ValueError(
                f"row {i} of attention_mask has zeros beyond its left side: expected padding at "
                "the left only (padding_side='left'), and at least one token"
            )
    return pads
