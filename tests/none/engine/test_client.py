"""AsyncEngine: requests, against a real engine process with the fake runner."""

import asyncio
import gc
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_engine import EOS_ID, VOCAB, text_of

from tradewind.base.errors import ContextLengthExceeded, Draining, Overloaded, RequestError
from tradewind.engine.client import AsyncEngine
from tradewind.engine.resolve import derived_seed
from tradewind.protocol.request import EngineRequest, FinishReason, RowSampling
from tradewind.protocol.sampling import SamplingParams
from tradewind.runner.fake import alone

SLOW = {"cost_s": 0.005}
ENDLESS = SamplingParams(max_tokens=400, ignore_eos=True)


def expected(prompt, params, index=0):
    """The tokens that a request gets, whatever runs beside it."""
    sampling = RowSampling(seed=derived_seed(params.seed, index))
    stops = [] if params.ignore_eos else [EOS_ID]
    fields = {"prompt_tokens": prompt, "max_tokens": params.max_tokens, "stop_token_ids": stops}
    return alone(EngineRequest(request_id=0, sampling=sampling, **fields), VOCAB)


async def read(stream):
    """Everything a stream says: per index its text, tokens and last delta."""
    texts, tokens, last = {}, {}, {}
    async for deltas in stream:
        for delta in deltas:
            texts[delta.index] = texts.get(delta.index, "") + delta.text
            tokens.setdefault(delta.index, []).extend(delta.token_ids)
            last[delta.index] = delta
    return texts, tokens, last


async def until(condition, timeout_s=30.0):
    """Wait until it holds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it never came"
        await asyncio.sleep(0.005)


def is_quiet(engine: AsyncEngine):
    """Nothing runs and no block is held, as the engine itself says."""
    stats = engine.stats
    return stats.steps > 0 and stats.running == stats.waiting == stats.blocks_used == 0


def test_the_client_imports_no_torch():
    program = "import tradewind.engine.client, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3]).returncode == 0


async def test_many_streams_get_the_tokens_each_would_get_alone(start_engine):
    engine = await start_engine()
    cases = [([index, 2, 3], SamplingParams(seed=index, max_tokens=5 + index)) for index in range(80)]
    answers = await asyncio.gather(*(read(engine.submit(prompt, params)) for prompt, params in cases))
    for (prompt, params), (texts, tokens, last) in zip(cases, answers, strict=True):
        assert tokens[0] == expected(prompt, params)
        assert texts[0] == text_of(tokens[0])
        ended = FinishReason.STOP if tokens[0][-1] == EOS_ID else FinishReason.LENGTH
        assert last[0].finish_reason is ended
    await until(lambda: is_quiet(engine))
    assert engine.open_sequences == 0


async def test_n_sequences_share_one_prefill(start_engine):
    engine = await start_engine()
    prompt, params = list(range(40)), SamplingParams(n=4, seed=9, max_tokens=6, ignore_eos=True)
    stream = engine.submit(prompt, params)
    _, tokens, last = await read(stream)
    assert tokens == {index: expected(prompt, params, index) for index in range(4)}
    assert {index: delta.finish_reason for index, delta in last.items()} == dict.fromkeys(range(4), FinishReason.LENGTH)
    usage = stream.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (40, 24, 0)
    await until(lambda: is_quiet(engine))
    assert engine.stats.prompt_tokens < 2 * len(prompt)  # the siblings compute only what no full block holds


async def test_a_stop_string_ends_the_stream_and_the_engine_stops_too(start_engine):
    engine = await start_engine(SLOW)
    params = SamplingParams(seed=5, max_tokens=300, ignore_eos=True)
    text = text_of(expected([1, 2], params))
    stop = text[10:13]
    assert text.index(stop) == 10
    texts, _, last = await read(
        engine.submit([1, 2], SamplingParams(seed=5, max_tokens=300, ignore_eos=True, stop=[stop]))
    )
    assert texts[0] == text[:10]
    assert (last[0].finish_reason, last[0].stop_reason) == (FinishReason.STOP, stop)
    await until(lambda: is_quiet(engine))
    assert engine.stats.output_tokens < 200  # however late this process had its turn


async def test_logprobs_are_carried(start_engine):
    engine = await start_engine()
    stream = engine.submit([1, 2, 3], SamplingParams(max_tokens=3, ignore_eos=True, logprobs=2, prompt_logprobs=1))
    deltas = [delta async for group in stream for delta in group]
    assert [len(delta.logprobs) for delta in deltas] == [len(delta.token_ids) for delta in deltas]
    chosen = [position.token_ids[0] for delta in deltas for position in delta.logprobs]
    assert chosen == [token for delta in deltas for token in delta.token_ids]
    assert [position and position.token_ids[0] for position in deltas[0].prompt_logprobs] == [None, 2, 3]


async def test_a_slow_reader_gets_fewer_and_larger_deltas(start_engine):
    engine = await start_engine()
    params = SamplingParams(seed=1, max_tokens=200, ignore_eos=True)
    slow, fast = engine.submit([1], params), engine.submit([1], params)
    await read(fast)
    await until(lambda: not engine.open_sequences)
    groups = [group async for group in slow]
    assert len(groups) == 1
    assert groups[0][0].token_ids == expected([1], params)
    assert groups[0][0].finish_reason is FinishReason.LENGTH


async def test_500_streams_aborted_in_the_middle_leave_nothing(start_engine):
    engine = await start_engine({"cost_s": 0.001})

    async def client(index):
        stream = engine.submit([index % 90, 5, 6, 7, 8], ENDLESS)
        if index % 2:
            await anext(stream)
        stream.abort()
        return await read(stream)

    answers = await asyncio.gather(*(client(index) for index in range(500)))
    assert all(last[0].finish_reason is FinishReason.ABORT for _, _, last in answers)
    assert engine.open_sequences == 0
    await until(lambda: is_quiet(engine))


async def test_a_stream_that_is_forgotten_is_aborted(start_engine):
    engine = await start_engine({"cost_s": 0.02})
    stream = engine.submit([1, 2], ENDLESS)
    await anext(stream)
    del stream
    gc.collect()
    await until(lambda: not engine.open_sequences)
    await until(lambda: is_quiet(engine))
    assert engine.stats.output_tokens < ENDLESS.max_tokens


async def test_a_burst_of_messages_is_read_to_its_end(start_engine):
    engine = await start_engine()
    params = SamplingParams(seed=1, max_tokens=200, ignore_eos=True)
    stream = engine.submit([1], params)
    time.sleep(0.7)
    _, tokens, _ = await read(stream)
    assert tokens[0] == expected([1], params)


async def test_an_abort_takes_effect_within_a_step(start_engine):
    step_s = 0.05
    engine = await start_engine({"cost_s": step_s})
    submitted_s = time.monotonic()
    stream = engine.submit([1, 2], ENDLESS)
    await anext(stream)
    stream.abort()
    begun_steps = 1 + (time.monotonic() - submitted_s) // step_s  # at most
    await until(lambda: is_quiet(engine))
    assert engine.stats.steps <= begun_steps + 2


async def test_a_reader_that_is_cancelled_can_read_on(start_engine):
    engine = await start_engine({"cost_s": 0.02})
    params = SamplingParams(seed=3, max_tokens=5, ignore_eos=True)
    stream = engine.submit([1], params)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    _, tokens, _ = await read(stream)
    assert tokens[0] == expected([1], params)


async def test_the_queue_is_bounded(start_engine):
    engine = await start_engine(SLOW, max_waiting=3, max_running=2)
    streams = [engine.submit([1, 2], ENDLESS) for _ in range(5)]
    with pytest.raises(Overloaded) as caught:
        engine.submit([1, 2], ENDLESS)
    assert caught.value.status == 429
    assert caught.value.retry_after_s > 0
    streams[0].abort()
    engine.submit([1, 2], ENDLESS).abort()


async def test_the_queue_is_bounded_when_memory_is_what_lacks(start_engine):
    engine = await start_engine({**SLOW, "info": {"num_blocks": 128}}, max_waiting=1)
    streams = [engine.submit([index] * 60, SamplingParams(max_tokens=450, ignore_eos=True)) for index in range(20)]
    await until(lambda: engine.stats.waiting > 1)
    with pytest.raises(Overloaded):
        engine.submit([1, 2], ENDLESS)
    for stream in streams:
        stream.abort()
    await until(lambda: is_quiet(engine))
    await read(engine.submit([1, 2], SamplingParams(max_tokens=2)))


async def test_what_the_scheduler_refuses_reaches_the_stream(start_engine):
    engine = await start_engine(SLOW, max_waiting=1, max_running=1)
    engine._config = engine._config.__class__()  # a client that believes in a longer queue than the engine has
    streams = [engine.submit([1, 2], SamplingParams(max_tokens=20, ignore_eos=True)) for _ in range(4)]
    results = await asyncio.gather(*map(read, streams), return_exceptions=True)
    assert sorted(isinstance(result, Overloaded) for result in results) == [False, False, True, True]
    assert engine.open_sequences == 0


async def test_a_deadline_ends_the_stream(start_engine):
    engine = await start_engine({"cost_s": 0.02})
    texts, _, last = await read(engine.submit([1], ENDLESS, timeout_s=0.6))
    assert last[0].finish_reason is FinishReason.DEADLINE
    assert 1 <= len(texts[0]) <= 30


async def test_wrong_requests_are_refused_at_once(start_engine):
    engine = await start_engine()
    for prompt, params, field in [
        ([], SamplingParams(), "prompt"),
        ([VOCAB], SamplingParams(), "prompt"),
        ([1], SamplingParams(temperature=-1), "temperature"),
        ([1], SamplingParams(logit_bias={VOCAB: 1.0}), "logit_bias"),
        ([1], SamplingParams(logprobs=21), "logprobs"),
    ]:
        with pytest.raises(RequestError) as caught:
            engine.submit(prompt, params)
        assert caught.value.field == field
    with pytest.raises(ContextLengthExceeded, match="512"):
        engine.submit([1] * 512, SamplingParams())
    assert engine.open_sequences == 0


async def test_drain_lets_streams_finish_and_refuses_new_ones(start_engine):
    engine = await start_engine(SLOW)
    params = SamplingParams(seed=2, max_tokens=30, ignore_eos=True)
    stream = engine.submit([1], params)
    draining = asyncio.create_task(engine.drain(5.0))
    await asyncio.sleep(0)
    assert engine.state == "draining"
    with pytest.raises(Draining) as caught:
        engine.submit([1], params)
    assert caught.value.status == 503
    _, tokens, _ = await read(stream)
    assert tokens[0] == expected([1], params)
    assert await draining is True


async def test_drain_aborts_what_takes_too_long(start_engine):
    engine = await start_engine(SLOW)
    stream = engine.submit([1], ENDLESS)
    assert await engine.drain(0.1) is False
    _, _, last = await read(stream)
    assert last[0].finish_reason is FinishReason.ABORT


async def test_drain_waits_for_a_piece_of_work_and_refuses_none_of_its_parts(start_engine):
    engine = await start_engine(SLOW)
    params = SamplingParams(seed=2, max_tokens=2, ignore_eos=True)
    with engine.work():
        draining = asyncio.create_task(engine.drain(5.0))
        for _ in range(3):
            _, tokens, _ = await read(engine.submit([1], params, is_part=True))
            assert tokens[0] == expected([1], params)
            await asyncio.sleep(0)
        with pytest.raises(Draining):
            engine.submit([1], params)
        assert not draining.done()
    assert await draining is True
    with pytest.raises(Draining), engine.work():
        pass


async def test_drain_does_not_wait_for_ever_for_a_piece_of_work(start_engine):
    engine = await start_engine(SLOW)
    with engine.work():
        assert await engine.drain(0.05) is False


class Listener:
    """Keeps all it is told."""

    def __init__(self):
        self.ttft_s, self.inter_token_s, self.finished = [], [], []

    def on_step(self, ttft_s, inter_token_s):
        self.ttft_s += ttft_s
        self.inter_token_s += inter_token_s

    def on_finished(self, timings):
        self.finished.append(timings)


async def test_listeners_hear_of_tokens_and_ends(start_engine):
    engine = await start_engine(SLOW)
    listener = Listener()
    engine.subscribe(listener)
    await read(engine.submit([1, 2, 3], SamplingParams(n=2, max_tokens=4, ignore_eos=True)))
    stream = engine.submit([1], ENDLESS)
    await anext(stream)
    stream.abort()
    assert len(listener.ttft_s) == 3
    assert len(listener.inter_token_s) >= 6
    assert all(0 < value < 5 for value in [*listener.ttft_s, *listener.inter_token_s])
    reasons = [timings.finish_reason for timings in listener.finished]
    assert reasons == [FinishReason.LENGTH, FinishReason.LENGTH, FinishReason.ABORT]
    first = listener.finished[0]
    assert (first.prompt_tokens, first.completion_tokens, first.cached_tokens) == (3, 4, 0)
    assert 0 <= first.queue_s <= first.ttft_s <= first.e2e_s
