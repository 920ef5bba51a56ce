"""A class for every status, and what an exception tells."""

from __future__ import annotations

import pytest

import radixattn as rx
from radixattn import errors


@pytest.mark.parametrize("status", [s for s in rx.Status if s != rx.Status.OK])
def test_every_status_has_a_class_of_its_own(status):
    error = errors.make_error(status)
    assert type(error) is not rx.RadixError
    assert isinstance(error, rx.RadixError)
    assert error.status == status
    assert error.status_name == status.name
    others = [type(errors.make_error(s)) for s in rx.Status if s not in (status, rx.Status.OK)]
    assert type(error) not in others


def test_an_unknown_status_is_a_radix_error():
    assert type(errors.make_error(-77)) is rx.RadixError


def test_python_s_own_classes_catch_theirs():
    assert issubclass(rx.InvalidArgumentError, ValueError)
    assert issubclass(rx.OutOfMemoryError, MemoryError)
    assert issubclass(rx.ClosedError, rx.StateError)


def test_the_message_names_argument_and_value(make_ctx):
    with pytest.raises(rx.InvalidArgumentError, match=r"block_size.*1000") as caught:
        make_ctx(block_size=1000)
    assert caught.value.status == rx.Status.INVALID
    assert caught.value.message == rx.last_error()
    assert str(caught.value).startswith("INVALID: ")
    assert caught.value.detail == rx.error_detail() == 0


def test_unsupported_is_unsupported(make_ctx):
    with pytest.raises(rx.UnsupportedError):
        make_ctx(cpu_target="neon" if "avx2" in rx.build_info() else "avx2")


def test_no_blocks_tells_the_exact_shortfall(meta):
    requests = [meta.begin([]), meta.begin([])]
    with pytest.raises(rx.NoBlocksError) as caught:
        meta.append_slots(requests, None, [20 * 4, 13 * 4])
    assert caught.value.short_blocks == 1
    assert [request.info().num_tokens for request in requests] == [0, 0]


def test_quota_tells_the_exact_shortfall(meta):
    team = meta.create_namespace("team", quota_blocks=3)
    with meta.begin([], namespace=team) as request, pytest.raises(rx.QuotaError) as caught:
        request.append(count=5 * 4)
    assert caught.value.short_blocks == 2


def test_stale_after_free(meta):
    request = meta.begin([1, 2])
    request.free()
    for call in (request.free, request.info, request.tokens, request.block_table, request.fork):
        with pytest.raises(rx.StaleIdError):
            call()


def test_things_of_another_context_are_stale(make_ctx):
    here, there = make_ctx(metadata_only=True), make_ctx(metadata_only=True)
    request, ours = here.begin([]), there.begin([])
    team = here.create_namespace("team")
    there.create_namespace("team")
    calls = [
        lambda: there.append_slots([ours, request], None), lambda: there.commit([request], [0]),
        lambda: there.block_tables([request]), lambda: there.fork(request),
        lambda: there.tokens(request), lambda: there.set_tokens(request, 0, []),
        lambda: there.begin([], namespace=team), lambda: there.namespace_info(team),
        lambda: there.evict(1, namespace=team), lambda: there.clear(namespace=team),
        lambda: there.find_shared([1], namespace=team),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(rx.StaleIdError, match="belongs to another context"):
            call()
    for call in (lambda: here.tokens(int(team)), lambda: here.namespace_info(int(request))):
        with pytest.raises(rx.StaleIdError):
            call()


def test_full(make_ctx):
    ctx = make_ctx(metadata_only=True, preallocate=True, max_requests=2)
    ctx.begin([]), ctx.begin([])
    with pytest.raises(rx.FullError):
        ctx.begin([])


def test_state_without_defer_free(meta):
    with pytest.raises(rx.StateError):
        meta.epoch_begin()


def test_busy(meta):
    team = meta.create_namespace("team")
    with meta.begin([1], namespace=team):
        with pytest.raises(rx.BusyError):
            team.clear()
        with pytest.raises(rx.BusyError):
            team.destroy()
    team.destroy()
    with pytest.raises(rx.StaleIdError):
        team.info()


def test_every_call_after_close_is_a_closed_error(make_ctx):
    ctx = make_ctx()
    request = ctx.begin([1, 2, 3])
    team = ctx.create_namespace("team")
    pin = ctx.pin_prefix([1])
    config = ctx.config
    ctx.close()
    ctx.close()
    calls = [
        request.info, request.tokens, request.free, request.fork, request.block_table,
        lambda: request.append([1]), lambda: request.truncate(0), lambda: request.set_tokens(0, []),
        lambda: request.commit(0), team.info, team.clear, team.destroy, pin.unpin,
        lambda: team.evict(1), lambda: ctx.begin([1]), lambda: ctx.match_prefix([1]), ctx.stats,
        ctx.check, ctx.sharing_graph, lambda: ctx.find_shared([1]), lambda: ctx.evict(1), ctx.clear,
        lambda: ctx.kv_views(0), lambda: ctx.copy_blocks([[0, 1]]), lambda: ctx.swap_out([0]),
        ctx.epoch_begin, lambda: ctx.pointer, ctx.__enter__,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(rx.ClosedError, match="closed"):
            call()
    assert config.block_size == 4
    with request, team, pin:  # their ends do nothing: all died with the context
        pass
