"""Snapshots: what they say of sequences and blocks is what the books say, and their size has a bound."""

import random

import msgspec
import numpy as np
from world import Shape, World, request

from tradewind.protocol.result import EngineStats
from tradewind.protocol.snapshot import CACHED, FREE, MAX_ROWS, MAX_RUNS, SHARED, BlockMap, EngineView, RowState
from tradewind.scheduler.view import compress


def view_of(world: World) -> EngineView:
    return world.scheduler.view(world.scheduler.stats())


def expand(blocks: BlockMap) -> list[int]:
    return [owner for owner, length in zip(blocks.owners, blocks.lengths, strict=True) for _ in range(length)]


def test_an_idle_engine_is_one_free_run():
    view = view_of(World(Shape()))
    assert (view.rows, view.blocks) == ([], BlockMap(owners=[FREE], lengths=[16]))


def test_rows_and_blocks_of_a_running_engine():
    world = World(Shape(max_running=2, prefix_caching=False))
    world.clock.advance(5)
    for request_id in range(4):
        world.add(request(request_id, [1] * 6, max_tokens=8))
    world.clock.advance(2)
    for _ in range(4):
        world.turn()
    first, second, third, fourth = view_of(world).rows
    assert [row.request_id for row in (first, second, third, fourth)] == [0, 1, 2, 3]
    assert {first.state, second.state} == {RowState.DECODE}
    assert (third.state, third.slot, third.blocks, third.computed_tokens) == (RowState.WAITING, None, 0, 0)
    assert (first.prompt_tokens, first.max_tokens, first.preemptions) == (6, 8, 0)
    assert first.output_tokens == len(world.stories[0].tokens)
    assert first.computed_tokens == 6 + first.output_tokens - 1
    assert first.age_s >= 2
    owners = expand(view_of(world).blocks)
    assert len(owners) == 16
    for row in (first, second):
        assert owners.count(row.request_id) == row.blocks > 0
    assert owners.count(FREE) == 16 - first.blocks - second.blocks


def test_shared_and_cached_blocks_are_told_apart():
    world = World(Shape(num_blocks=32, max_model_len=64))
    world.add(request(0, [3] * 16, max_tokens=2))
    world.drain()
    assert expand(view_of(world).blocks).count(CACHED) == 4
    world.add(request(1, [3] * 20, max_tokens=20))
    world.add(request(2, [3] * 20, max_tokens=20))
    for _ in range(4):
        world.turn()
    owners = expand(view_of(world).blocks)
    assert owners.count(SHARED) >= 4
    assert {1, 2} <= set(owners)


def test_under_random_load_a_view_agrees_with_the_figures():
    dice = random.Random(7)
    world = World(Shape(num_blocks=20, max_running=6, policy="priority", run_ahead=True))
    states = set()
    for request_id in range(150):
        prompt = [dice.randrange(3) for _ in range(dice.randint(1, 20))]
        world.add(request(request_id, prompt, max_tokens=dice.randint(1, 20), priority=dice.randrange(3)))
        for _ in range(dice.randint(0, 4)):
            world.turn()
        view, stats = view_of(world), world.scheduler.stats()
        states |= {row.state for row in view.rows}
        owners = expand(view.blocks)
        running = [row for row in view.rows if row.state in (RowState.PREFILL, RowState.DECODE)]
        assert (len(running), len(view.rows) - len(running)) == (stats.running, stats.waiting)
        assert owners.count(FREE) + owners.count(CACHED) == stats.blocks_total - stats.blocks_used
        assert owners.count(CACHED) == stats.blocks_cached
        assert set(owners) <= {FREE, CACHED, SHARED} | {row.request_id for row in running}
        for row in running:
            assert owners.count(row.request_id) <= row.blocks
            assert row.computed_tokens <= row.blocks * 4
    world.drain()
    assert states == set(RowState)


def test_the_size_has_a_bound():
    checkered = compress(np.arange(5 * MAX_RUNS) % 2)
    assert len(checkered.owners) <= MAX_RUNS
    assert sum(checkered.lengths) * checkered.cell_blocks >= 5 * MAX_RUNS
    world = World(Shape())
    for request_id in range(MAX_ROWS + 100):
        world.scheduler.add(request(request_id, [1], max_tokens=2))
    view = view_of(world)
    assert len(view.rows) == MAX_ROWS
    assert view.stats.waiting == MAX_ROWS + 100
    assert len(msgspec.msgpack.encode(view)) < 2**18
    assert compress(np.zeros(0, np.int64)) == BlockMap(owners=[], lengths=[])
    assert EngineView(stats=EngineStats(), rows=[], blocks=checkered) == msgspec.msgpack.decode(
        msgspec.msgpack.encode(EngineView(stats=EngineStats(), rows=[], blocks=checkered)), type=EngineView
    )
