"""AsyncEngine around a real process with the fake runner."""

from tradewind.protocol.sampling import SamplingParams


async def test_smoke(start_engine):
    engine = await start_engine()
    print(engine.ready, engine.state)
    stream = engine.submit([1, 2, 3], SamplingParams(max_tokens=10, seed=1, ignore_eos=True))
    async for deltas in stream:
        print(deltas)
    print(stream.usage, engine.stats)
