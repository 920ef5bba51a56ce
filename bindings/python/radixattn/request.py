"""The things that live in a context, by id: requests, pins, namespaces.

Each object is a context and a number; dropping it frees nothing. free(), unpin() and destroy() do,
and so does the end of a ``with`` block. After that the library answers with StaleIdError, whatever
object still has the id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from radixattn._ffi import ffi, lib
from radixattn.errors import StaleIdError, check
from radixattn.results import (
    AppendResult,
    CommitResult,
    Match,
    NamespaceInfo,
    RequestInfo,
    read_struct,
)
from radixattn.tensors import Array, Ints

if TYPE_CHECKING:
    from typing_extensions import Self

    from radixattn.cache import CacheCalls
    from radixattn.core import ContextCore


class _Living:
    """A context and the id of something in it; equal when both are."""

    def __init__(self, ctx: CacheCalls, number: int) -> None:
        self.ctx = ctx
        self.id = number
        self._ended = False

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.ctx is self.ctx and other.id == self.id

    def __hash__(self) -> int:
        return hash((type(self), id(self.ctx), self.id))

    def __repr__(self) -> str:
        return f"<radixattn.{type(self).__name__} {self.id >> 32}:{self.id & 0xFFFFFFFF}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if not (self._ended or self.ctx.closed):
            self._end()

    def _end(self) -> None:
        raise NotImplementedError


class Request(_Living):
    """A sequence of tokens with a lease on its blocks. Made by Context.begin and Request.fork.

    match: what was cached at begin; None for a request that came another way. ``with`` frees it at
    the end.
    """

    def __init__(self, ctx: CacheCalls, number: int, match: Match | None = None) -> None:
        super().__init__(ctx, number)
        self.match = match

    def append(self, tokens: Ints | None = None, count: int | None = None) -> AppendResult:
        """Reserves slots for new tokens: their ids, or only their count (ids follow by set_tokens).
        [C]

        Run the result's ops before writing K/V. Errors: StaleIdError, StateError (ids of earlier
        tokens unknown), NoBlocksError, QuotaError, FullError, OutOfMemoryError; nothing has changed
        then.
        """
        if (tokens is None) == (count is None):
            raise TypeError("append takes either tokens or count")
        if tokens is None:
            return self.ctx.append_slots([self], None, [count or 0])
        return self.ctx.append_slots([self], tokens, [len(tokens)])  # type: ignore[arg-type]

    def set_tokens(self, position: int, tokens: Ints) -> None:
        """Ids of tokens appended without: [position, position + len(tokens)).

        Known ones must be equal. [C]
        """
        self.ctx.set_tokens(self, position, tokens)

    def commit(self, num_valid_tokens: int | None = None) -> CommitResult:
        """Publishes: K/V of the first num_valid_tokens tokens (default: all) is written. [C]

        Full blocks of it become visible to others. Errors: StaleIdError, InvalidArgumentError
        (beyond num_tokens), StateError (ids unknown).
        """
        count = self.info().num_tokens if num_valid_tokens is None else num_valid_tokens
        return self.ctx.commit([self], [count])

    def fork(self, n: int = 1) -> list[Request]:
        """n requests that share every block of this one, without copying. [C]

        Errors: StaleIdError, StateError (token ids unknown; or this request borrows), FullError.
        """
        return self.ctx.fork(self, n)

    def truncate(self, num_tokens: int) -> None:
        """Cuts the request to its first num_tokens tokens, exactly.

        [C] Errors: StaleIdError, InvalidArgumentError.
        """
        check(lib.radix_truncate(self.ctx.pointer, self.id, num_tokens))

    def info(self) -> RequestInfo:
        """Lengths, versions and promises. [C]"""
        struct = ffi.new("radix_request_info *", {"struct_size": ffi.sizeof("radix_request_info")})
        check(lib.radix_get_request(self.ctx.pointer, self.id, struct))
        return read_struct(RequestInfo, struct)

    def tokens(self) -> Array:
        """The known token ids, int32 [known_tokens]. [C]"""
        return self.ctx.tokens(self)

    def block_table(self) -> Array:
        """The physical blocks in order, int32 [num_blocks]. [C]"""
        tables, _ = self.ctx.block_tables([self])
        return tables[0, : self.info().num_blocks]

    def free(self, *, discard: bool = False) -> None:
        """Ends the request; committed blocks stay cached, unless discard drops those only it used.
        [C]

        A second free raises StaleIdError and has no effect.
        """
        check(lib.radix_free_request(self.ctx.pointer, self.id, lib.RADIX_FREE_DISCARD * discard))
        self._ended = True

    def _end(self) -> None:
        self.free()


class Pin(_Living):
    """Keeps a cached prefix from eviction until unpin (or the end of its ``with``).

    match: what it holds.
    """

    def __init__(self, ctx: CacheCalls, number: int, match: Match) -> None:
        super().__init__(ctx, number)
        self.match = match

    def unpin(self) -> None:
        """[C] StaleIdError: not a live pin."""
        check(lib.radix_unpin(self.ctx.pointer, self.id))
        self._ended = True

    def _end(self) -> None:
        self.unpin()


class Namespace(_Living):
    """Its requests never see another's blocks. ``with`` destroys it at the end."""

    def __init__(self, ctx: CacheCalls, number: int, name: bytes) -> None:
        super().__init__(ctx, number)
        self.name = name

    def info(self) -> NamespaceInfo:
        """[C]"""
        return self.ctx.namespace_info(self)

    def evict(self, want: int) -> int:
        """Evicts up to want unleased blocks; returns how many. [C]"""
        return self.ctx.evict(want, namespace=self)

    def clear(self) -> None:
        """Forgets everything cached. [C] BusyError when requests or pins live here."""
        self.ctx.clear(namespace=self)

    def destroy(self) -> None:
        """Clears and removes it. [C] BusyError when requests or pins live here."""
        check(lib.radix_ns_destroy(self.ctx.pointer, self.id))
        self._ended = True

    def _end(self) -> None:
        self.destroy()


def id_of(thing: Any, ctx: ContextCore) -> int:
    """The id of a request or namespace of ctx, or the number itself, which only the library judges.

    StaleIdError: an object of another context, whose id may well be somebody's here.
    """
    if isinstance(thing, _Living):
        if thing.ctx is not ctx:
            raise StaleIdError(lib.RADIX_E_STALE, f"{thing!r} belongs to another context")
        return thing.id
    return int(thing)
