"""`tradewind generate`: continue prompts in the terminal."""

import argparse
import asyncio
import json
import sys

from tradewind.cli.session import open_engine, sampling_of
from tradewind.engine.client import Stream
from tradewind.protocol.sampling import SamplingParams


def run(arguments: argparse.Namespace) -> int:
    """Continue each prompt (all of them at once, printed in order); returns the exit status."""
    prompts = arguments.prompt or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    asyncio.run(_generate(arguments, prompts))
    return 0


async def _generate(arguments: argparse.Namespace, prompts: list[str]) -> None:
    async with open_engine(arguments) as engine:
        params = sampling_of(arguments, engine, max_tokens=128)
        token_ids = [engine.tokenizer.encode(prompt) for prompt in prompts]
        streams = [engine.submit(ids, params) for ids in token_ids]
        for prompt, ids, stream in zip(prompts, token_ids, streams, strict=True):
            if arguments.json:
                await _print_json(prompt, ids, stream, params)
            else:
                await _print_text(prompt, stream)


async def _print_text(prompt: str, stream: Stream) -> None:
    print(prompt, end="", flush=True)
    async for deltas in stream:
        print("".join(delta.text for delta in deltas), end="", flush=True)
    print()


async def _print_json(prompt: str, prompt_tokens: list[int], stream: Stream, params: SamplingParams) -> None:
    text, token_ids, reason = "", [], None
    async for deltas in stream:
        for delta in deltas:
            text += delta.text
            token_ids += delta.token_ids
            reason = delta.finish_reason or reason
    record = {
        "prompt": prompt,
        "prompt_token_ids": prompt_tokens,
        "text": text,
        "token_ids": token_ids,
        "finish_reason": reason,
        "seed": params.seed,
    }
    print(json.dumps(record, ensure_ascii=False), flush=True)
