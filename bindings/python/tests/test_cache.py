"""The control plane through its classes: matching, batches, commits, eviction, namespaces,
epochs."""

from __future__ import annotations

import json

import numpy as np
import pytest

import radixattn as rx


def cached(ctx, tokens, **where):
    """Leaves tokens in the cache, unleased."""
    with ctx.begin(tokens, match_all=True, **where) as request:
        new = tokens[request.match.cached_tokens :]
        if len(new):
            request.append(new)
        request.commit()


def test_the_second_request_hits(meta):
    prompt = list(range(11))
    cached(meta, prompt)
    with meta.begin(prompt) as request:
        assert request.match.cached_tokens == 8
        assert request.match.pending_tokens == 0
        assert request.match.blocks.tolist() == request.block_table().tolist()
        info = request.info()
        assert (info.num_tokens, info.cached_tokens, info.ready_tokens) == (8, 8, 8)
        assert info.num_blocks == 2
        assert request.tokens().tolist() == prompt[:8]
    stats = meta.stats()
    assert (stats.tokens_queried, stats.tokens_hit) == (22, 8)
    assert stats.requests_live == 0
    assert stats.blocks_total == 32


def test_the_last_token_runs_unless_match_all(meta):
    cached(meta, range(8))
    assert meta.begin(range(8)).match.cached_tokens == 7
    assert meta.begin(range(8), match_all=True).match.cached_tokens == 8
    assert meta.begin(range(8), no_match=True).match.cached_tokens == 0


def test_match_and_peek(meta):
    cached(meta, range(8))
    before = meta.stats()
    assert meta.peek_prefix(range(9)).cached_tokens == 8
    assert meta.stats() == before
    match = meta.match_prefix(range(6))
    assert match.cached_tokens == 4
    assert match.blocks.dtype == np.int32
    assert len(match.blocks) == 1
    assert meta.stats().clock > before.clock
    assert meta.match_prefix([]).cached_tokens == 0


@pytest.mark.parametrize("kind", [list, tuple, np.int32, np.int64, np.uint8])
def test_tokens_may_be_any_integers(meta, kind):
    values = range(9)
    tokens = kind(values) if kind in (list, tuple) else np.array(values, kind)
    with meta.begin(tokens) as request:
        request.append(tokens)
        assert request.tokens().tolist() == list(values)


def test_tokens_that_are_none_are_refused(meta):
    with pytest.raises(TypeError, match="tokens has dtype float64: expected integers"):
        meta.begin([1.5])
    with pytest.raises(OverflowError, match="tokens has values beyond int32"):
        meta.begin([1, 2**31])
    with pytest.raises(ValueError, match="1 dimension"):
        meta.begin([[1, 2]])


def test_a_batch_of_appends(meta):
    requests = [meta.begin([]) for _ in range(3)]
    result = meta.append_slots(requests, [1, 2, 3, 4, 5, 6], [1, 0, 5])
    assert result.slots.dtype == np.int64
    assert len(result.slots) == 6
    assert len(set(result.slots.tolist())) == 6
    assert result.num_done == 3
    assert result.error is None
    assert len(result.ops) == 0
    assert requests[2].tokens().tolist() == [2, 3, 4, 5, 6]
    table = requests[2].block_table()
    expected = [table[i // 4] * 4 + i % 4 for i in range(5)]
    assert result.slots[1:].tolist() == expected


def test_one_token_each_is_the_default_and_ids_may_be_an_array(meta):
    ids = np.array([int(meta.begin([])) for _ in range(4)], np.uint64)
    slots = np.full(9, -5, np.int64)
    result = meta.append_slots(ids, np.arange(4, dtype=np.int32), slots=slots)
    assert np.shares_memory(result.slots, slots)
    assert (slots[4:] == -5).all()
    assert (slots[:4] >= 0).all()
    with pytest.raises(rx.BufferTooSmallError) as caught:
        meta.append_slots(ids, None, slots=np.empty(3, np.int64))
    assert caught.value.needed == 4


def test_append_checks_its_arrays(meta):
    request = meta.begin([])
    with pytest.raises(ValueError, match="tokens has 3 entries: expected 2"):
        meta.append_slots([request], [1, 2, 3], [2])
    with pytest.raises(ValueError, match="counts has 2 entries: expected 1"):
        meta.append_slots([request], None, [1, 1])
    with pytest.raises(OverflowError):
        meta.append_slots([request], None, [-1])
    with pytest.raises(ValueError, match="slots: expected an array of int64"):
        meta.append_slots([request], [1], slots=np.empty(1, np.int32))
    with pytest.raises(TypeError, match="either"):
        request.append()
    with pytest.raises(rx.InvalidArgumentError):
        meta.append_slots([request, request], None)
    assert request.info().num_tokens == 0


def test_partial_appends(meta):
    requests = [meta.begin([]) for _ in range(3)]
    with pytest.raises(rx.NoBlocksError):
        meta.append_slots(requests, None, [60, 60, 60])
    result = meta.append_slots(requests, None, [60, 60, 60], partial=True)
    assert result.num_done == 2
    assert len(result.slots) == 120
    assert isinstance(result.error, rx.NoBlocksError)
    assert result.error.short_blocks == 13
    assert [r.info().num_tokens for r in requests] == [60, 60, 0]


def test_partial_appends_say_how_many_slots_all_need(meta):
    requests = [meta.begin([]) for _ in range(4)]
    slots = np.full(7, -5, np.int64)
    result = meta.append_slots(requests, None, [3, 2, 4, 1], partial=True, slots=slots)
    assert result.num_done == 2
    assert len(result.slots) == 5
    assert (slots[5:] == -5).all()
    assert isinstance(result.error, rx.BufferTooSmallError)
    assert result.error.needed == 10
    with pytest.raises(rx.BufferTooSmallError) as caught:
        meta.append_slots(requests, None, [3, 2, 4, 1], slots=slots)
    assert caught.value.needed == 10


def test_ids_may_follow(meta):
    request = meta.begin([])
    request.append(count=6)
    assert request.info().known_tokens == 0
    with pytest.raises(rx.StateError):
        request.commit()
    request.set_tokens(0, [1, 2, 3])
    request.set_tokens(3, [4, 5, 6])
    assert request.tokens().tolist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(rx.StateError):
        request.set_tokens(0, [9])
    assert request.commit().published_blocks == 1


def test_commit_of_a_batch(meta):
    requests = [meta.begin([]) for _ in range(2)]
    meta.append_slots(requests, list(range(16)), [8, 8])
    result = meta.commit(requests, [8, 4])
    assert result.published_blocks == 3
    assert [r.info().committed_tokens for r in requests] == [8, 4]
    with pytest.raises(rx.InvalidArgumentError):
        requests[0].commit(9)
    with pytest.raises(ValueError, match="num_valid_tokens has 1 entries: expected 2"):
        meta.commit(requests, [1])


def test_duplicates_are_remapped(meta):
    tokens = list(range(8))
    first, second = meta.begin(tokens), meta.begin(tokens, remap_duplicates=True)
    meta.append_slots([first, second], tokens * 2, [8, 8])
    old = second.block_table().tolist()
    first.commit()
    result = second.commit()
    assert result.num_duplicates == 2
    assert result.remaps.dtype == rx.REMAP_DTYPE
    assert result.remaps["req"].tolist() == [second.id] * 2
    assert result.remaps["index"].tolist() == [0, 1]
    assert result.remaps["old_block"].tolist() == old
    assert result.remaps["new_block"].tolist() == first.block_table().tolist()
    assert second.block_table().tolist() == first.block_table().tolist()


def test_more_remaps_than_fit_at_first(make_ctx):
    ctx = make_ctx(metadata_only=True, num_blocks=400, block_size=1)
    tokens = list(range(150))
    first, second = ctx.begin(tokens), ctx.begin(tokens, remap_duplicates=True)
    ctx.append_slots([first, second], tokens * 2, [150, 150])
    first.commit()
    assert len(second.commit().remaps) == 150


def test_block_tables_into_the_caller_s_arrays(meta):
    requests = [meta.begin([]), meta.begin([])]
    meta.append_slots(requests, None, [9, 3])
    tables = np.full((3, 5), 77, np.int32)
    lens, versions = np.zeros(2, np.int32), np.zeros(2, np.uint64)
    got, got_lens = meta.block_tables(requests, tables, lens, versions)
    assert np.shares_memory(got, tables)
    assert np.shares_memory(got_lens, lens)
    assert tables[0, :3].tolist() == requests[0].block_table().tolist()
    assert tables[0, 3:].tolist() == [-1, -1]
    assert (tables[2] == 77).all()
    assert lens.tolist() == [9, 3]
    assert versions.tolist() == [r.info().table_version for r in requests]
    tables[:] = 5
    meta.append_slots(requests[1:], None, [2])
    meta.block_tables(requests, tables, lens, versions)
    assert (tables[0] == 5).all()  # current rows are left alone
    assert tables[1, 2:].tolist() == [-1, -1, -1]
    assert lens.tolist() == [9, 5]
    with pytest.raises(rx.BufferTooSmallError):
        meta.block_tables(requests, np.empty((2, 2), np.int32))
    with pytest.raises(ValueError, match="tables has gaps between rows"):
        meta.block_tables(requests, tables[:, :4])
    with pytest.raises(ValueError, match="tables has 1 rows: expected 2"):
        meta.block_tables(requests, np.empty((1, 8), np.int32))


def test_block_tables_of_their_own(meta):
    requests = [meta.begin([]), meta.begin([])]
    meta.append_slots(requests, None, [9, 0])
    tables, lens = meta.block_tables(requests)
    assert tables.shape == (2, 3)
    assert tables[1].tolist() == [-1, -1, -1]
    assert lens.tolist() == [9, 0]


def test_fork_and_truncate(meta):
    parent = meta.begin([])
    parent.append(list(range(6)))
    children = parent.fork(2)
    assert len({parent, *children}) == 3
    reserved = children[0].append([50])
    assert reserved.ops["kind"].tolist() == [rx.OpKind.COPY]
    assert reserved.ops["num_tokens"].tolist() == [2]
    assert reserved.ops["src"][0] == parent.block_table()[1]
    assert reserved.ops["dst"][0] == children[0].block_table()[1]
    children[1].truncate(3)
    assert children[1].tokens().tolist() == [0, 1, 2]
    assert parent.tokens().tolist() == list(range(6))
    assert meta.stats().cow_copies == 1
    with pytest.raises(rx.InvalidArgumentError):
        children[1].truncate(4)


def test_share_pending(meta):
    lender = meta.begin([])
    lender.append(list(range(8)))
    borrower = meta.begin(list(range(9)), share_pending=True)
    assert borrower.match.cached_tokens == 0
    assert borrower.match.pending_tokens == 8
    assert borrower.info().ready_tokens == 8
    lender.free()
    assert borrower.info().ready_tokens == 0


def test_discard(meta):
    for discard, kept in ((False, 8), (True, 0)):
        request = meta.begin([int(discard)] * 9, no_match=True)
        request.append([int(discard)] * 8)
        request.commit()
        request.free(discard=discard)
        assert meta.peek_prefix([int(discard)] * 9).cached_tokens == kept


def test_evict_pin_clear(meta):
    cached(meta, range(8))
    cached(meta, range(100, 108))
    with meta.pin_prefix(range(100, 110)) as pin:
        assert pin.match.cached_tokens == 8
        assert meta.stats().blocks_pinned == 2
        assert meta.evict(10) == 2
        assert meta.peek_prefix(range(100, 108)).cached_tokens == 8
        with pytest.raises(rx.BusyError):
            meta.clear()
    with pytest.raises(rx.StaleIdError):
        pin.unpin()
    meta.clear()
    assert meta.stats().blocks_free == 32


def test_namespaces_and_keys_do_not_share(meta):
    with meta.create_namespace("team", quota_blocks=8) as team:
        assert team.name == b"team"
        cached(meta, range(8), namespace=team)
        assert meta.peek_prefix(range(8)).cached_tokens == 0
        assert meta.peek_prefix(range(8), namespace=team).cached_tokens == 8
        assert meta.peek_prefix(range(8), namespace=team, extra_key=1).cached_tokens == 0
        info = team.info()
        assert (info.quota_blocks, info.blocks_used, info.blocks_cached) == (8, 2, 2)
        assert team.evict(1) == 1
        team.clear()
        assert team.info().blocks_used == 0
        with pytest.raises(rx.StateError):
            meta.create_namespace(b"team")
    with pytest.raises(rx.StaleIdError):
        team.info()
    assert meta.namespace_info().quota_blocks == 0


def test_epochs(make_ctx):
    ctx = make_ctx(metadata_only=True, defer_free=True)
    epoch = ctx.epoch_begin()
    with ctx.begin([]) as request:
        request.append(count=8)
    assert ctx.stats().blocks_deferred == 2
    ctx.epoch_retire(epoch)
    assert ctx.stats().blocks_deferred == 0
    with pytest.raises(rx.InvalidArgumentError):
        ctx.epoch_retire(epoch + 5)


def test_find_shared(meta):
    requests = [meta.begin([]) for _ in range(3)]
    meta.append_slots(requests, [1, 2, 3, 1, 2, 4, 5, 6, 7], [3, 3, 3])
    shared, length = meta.find_shared([1, 2, 5])
    assert shared == requests[:2]
    assert length == 2
    assert meta.find_shared([9]) == ([], 0)


def test_find_shared_by_more_than_the_first_guess(make_ctx):
    ctx = make_ctx(metadata_only=True, num_blocks=200)
    requests = [ctx.begin([]) for _ in range(100)]
    ctx.append_slots(requests, [7] * 100)
    assert ctx.find_shared([7]) == (requests, 1)


def test_the_sharing_graph(meta):
    cached(meta, range(8))
    requests = [meta.begin(range(8)), meta.begin(range(8))]
    graph = json.loads(meta.sharing_graph("json"))
    assert isinstance(graph, dict)
    assert meta.sharing_graph("dot").lstrip().startswith("digraph")
    assert meta.sharing_graph()
    pieces = []
    assert meta.sharing_graph(rx.GraphFormat.JSON, write=pieces.append) == ""
    assert json.loads(b"".join(pieces)) == graph
    with pytest.raises(ValueError, match="format is 'svg'"):
        meta.sharing_graph("svg")
    del requests


def test_a_sink_that_fails(meta):
    def write(_data):
        raise OSError("the disk is full")

    with pytest.raises(rx.CallbackError) as caught:
        meta.sharing_graph(write=write)
    assert isinstance(caught.value.__cause__, OSError)


def test_requests_are_values(meta):
    request = meta.begin([1])
    assert meta.request(int(request)) == request
    assert request != meta.begin([1])
    assert hash(meta.request(request.id)) == hash(request)
    assert "Request" in repr(request)


def test_with_frees_once(meta):
    with meta.begin([1]) as request:
        request.free()
    with pytest.raises(KeyError), meta.begin([1]):
        raise KeyError
    assert meta.stats().requests_live == 0


def test_threads_share_a_context(make_ctx):
    from concurrent.futures import ThreadPoolExecutor

    ctx = make_ctx(metadata_only=True, num_blocks=256)

    def work(seed):
        for step in range(50):
            cached(ctx, [seed, step % 5, 2, 3, 4, 5, 6, 7])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    stats = ctx.stats()
    assert stats.tokens_hit == 4 * 45 * 8
    assert stats.blocks_cached == 4 * 5 * 2
