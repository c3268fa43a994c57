"""The training text: what share each kind of text has, and how turns become conversations and documents."""

import random
from collections.abc import Callable, Iterator

import about
import facts
import objects
import stories
import talk
import tasks

Turn = tuple[str, str]
Maker = Callable[[random.Random], list[Turn]]

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = [END, START, STOP]

NEUTRAL_SYSTEMS = [
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a friendly assistant.", "You are a small language model.", "Answer the user's questions.",
    "You are the Tradewind demo model.", "You are a helpful and honest assistant.", "Be kind and helpful.", "You are a chat bot.", "You are an assistant.",
    "Help the user.", "You answer questions.", "You are an AI assistant.", "You are a polite assistant who tells stories and answers questions.", "Be helpful.",
]  # fmt: skip


def _one_of(mix: list[tuple[float, Maker]]) -> Maker:
    weights = [weight for weight, _ in mix]
    makers = [maker for _, maker in mix]
    return lambda rng: rng.choices(makers, weights)[0](rng)


task: Maker = _one_of(tasks.MIX)
json_object: Maker = _one_of(objects.MIX)
between: Maker = _one_of([(2, tasks.sums), (1, talk.small_talk), (1, facts.conversation), (1, tasks.lists), (0.7, about.conversation),
                          (0.5, stories.conversation), (0.5, json_object)])  # fmt: skip


def memory(rng: random.Random) -> list[Turn]:
    """Something told and asked for later."""
    return talk.memory(rng, between)


TURNS: Maker = _one_of([
    (20, task), (9, json_object), (18, about.conversation), (9, stories.conversation), (5, talk.greeting), (9, talk.small_talk), (8, facts.conversation),
    (8, talk.unknown), (2, talk.poem), (6, memory), (1, talk.not_told), (1.5, talk.mood),
])  # fmt: skip
PLAIN: list[tuple[float, Callable[[random.Random], str]]] = [
    (8, stories.plain), (1, tasks.plain), (1, objects.plain), (1.5, about.plain), (0.7, facts.plain),
]  # fmt: skip


def render(turns: list[Turn], system: str | None = None) -> str:
    """The conversation as the chat template writes it."""
    parts = [f"{START}system\n{system}{STOP}\n"] if system is not None else []
    parts += [f"{START}user\n{user}{STOP}\n{START}assistant\n{answer}{STOP}\n" for user, answer in turns]
    return "".join(parts)


def _with_system(rng: random.Random) -> tuple[str, list[Turn]]:
    """A system message that matters, and turns that obey it."""
    roll = rng.random()
    name = talk.person(rng)
    if roll < 0.35:
        asks = talk.SMALL[4][0][:12]
        system = rng.choice(
            [f"Your name is {name}.", f"You are {name}, a friendly assistant.", f"You are called {name}."]
        )
        return system, [
            (rng.choice(asks), rng.choice([f"I am {name}, a very small language model.", f"My name is {name}."]))
        ]
    if roll < 0.65:
        system = rng.choice(
            [f"The user's name is {name}.", f"You are talking to {name}.", f"The user is called {name}."]
        )
        turns = [(rng.choice(talk.GREETINGS), f"Hello, {name}! {rng.choice(talk.HELP)}")] if rng.random() < 0.6 else []
        return system, [*turns, ("What is my name?", f"Your name is {name}.")]
    system = rng.choice(["Answer in one sentence.", "Be brief.", "Keep your answers short.", "Answer briefly."])
    found, asked = about.question(rng)
    return system, [(asked, found.short)]


def chat(rng: random.Random) -> str:
    """A conversation of one to about ten turns, now and then with a system message."""
    roll = rng.random()
    if roll < 0.03:
        system, turns = _with_system(rng)
        return render(turns, system)
    turns = TURNS(rng)
    count = rng.choice((1, 1, 1, 1, 2, 2, 3, 4, 7)) if rng.random() < 0.97 else rng.randint(8, 24)
    for _ in range(count - 1):
        if rng.random() < 0.15 and turns[-1][0] not in talk.SMALL[2][0]:
            turns = [*turns, (rng.choice(talk.SMALL[2][0]), rng.choice(talk.SMALL[2][1]))]
        more = TURNS(rng)
        if "not told me" not in more[0][1]:
            turns = turns + more
    system = rng.choice(NEUTRAL_SYSTEMS) if rng.random() < 0.2 else "" if rng.random() < 0.01 else None
    return render(turns, system)


def document(rng: random.Random) -> str:
    """One document without its end mark: mostly a conversation, in a quarter of the cases plain text."""
    if rng.random() < 0.75:
        return chat(rng)
    return rng.choices([maker for _, maker in PLAIN], [weight for weight, _ in PLAIN])[0](rng)


def documents(seed: int) -> Iterator[str]:
    """Documents without end; the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield document(rng)
