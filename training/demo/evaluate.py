"""Score the demo model on items that were not in its training text. From the repository root:

    python training/demo/evaluate.py tradewind/demo

Greedy answers, float32 by default. What 'held out' means for each kind of item is said at its maker.
"""

import argparse
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import about
import corpus
import objects
import stories
import talk
import tasks
import torch
from model import Llama, generate, load
from tokenizers import Tokenizer

Turn = tuple[str, str]
Check = Callable[[str], bool]
Item = tuple[str, Check]  # a prompt, and whether an answer is right

UNSURE = re.compile(r"not know|nothing about|too small|too hard|beyond me|cannot|very small|do not know", re.IGNORECASE)


def prompt(turns: list[Turn], question: str, system: str | None = None) -> str:
    """The prompt for the next answer of a conversation."""
    return corpus.render(turns, system) + f"{corpus.START}user\n{question}{corpus.STOP}\n{corpus.START}assistant\n"


def equals(expected: str) -> Check:
    """The answer must be exactly this."""
    return lambda answer: answer.strip() == expected


def sum_item(rng: random.Random) -> Item:
    """Sums and differences of two numbers from 42 to 99, of pairs that no training text has.

    Smaller pairs that `tasks.held_out` keeps from the plain sums may still come up in a little scene (up to 41) or
    when a sum goes on (by up to 20), so they are not asked.
    """
    while True:
        question, answer = tasks.sums(rng, test=True, sign=rng.choice("+-"))[0]
        if all(int(number) > 41 for number in re.findall(r"\d+", question)):
            return prompt([], question), equals(answer)


def product_item(rng: random.Random) -> Item:
    """Products up to 12 * 12. The table is in the training text; the phrasing may be."""
    x, y = rng.randint(2, 12), rng.randint(2, 12)
    return prompt([], f"What is {x} * {y}?"), equals(f"{x} * {y} = {x * y}")


def sorting_item(rng: random.Random) -> Item:
    """Words and numbers to sort: fresh draws."""
    question, answer = tasks.sorting(rng)[0]
    return prompt([], question), equals(answer)


def letters_item(rng: random.Random) -> Item:
    """Spelling, reversing and counting letters of words whose spelling was trained."""
    question, answer = tasks.letters(rng)[0]
    return prompt([], question), lambda said: said.split(" ")[-1].strip('".') == answer.split(" ")[-1].strip('".')


def copying_item(rng: random.Random) -> Item:
    """Copies of short texts with fresh invented words."""
    text = " ".join(talk.invented(rng) for _ in range(3))
    return prompt([], f"Repeat after me: {text}"), equals(text)


def json_item(rng: random.Random) -> Item:
    """A described person or thing: the answer must parse and have exactly these fields. Fresh draws."""
    question, fields = objects.described(rng)

    def right(answer: str) -> bool:
        try:
            return bool(json.loads(answer) == fields)
        except json.JSONDecodeError:
            return False

    return prompt([], question), right


def json_valid_item(rng: random.Random) -> Item:
    """Any JSON task: the answer must parse."""
    question, _ = objects.free(rng)[0] if rng.random() < 0.5 else objects.arrays(rng)[0]

    def right(answer: str) -> bool:
        try:
            json.loads(answer)
        except json.JSONDecodeError:
            return False
        return True

    return prompt([], question), right


def about_item(rng: random.Random) -> Item:
    """Questions about Tradewind in phrasings that the training text leaves out; the answer must have a key word."""
    topic, question = about.question(rng, test=True)
    return prompt([], question), lambda answer: any(word.lower() in answer.lower() for word in topic.keywords)


def memory_item(rng: random.Random) -> Item:
    """Something told, other turns, and the question for it. Fresh draws."""
    turns = corpus.memory(rng)
    question, answer = turns[-1]
    return prompt(turns[:-1], question), equals(answer)


def story_item(rng: random.Random) -> Item:
    """A story on request: it must name whom it was asked for, have nobody else in it, and come to an end."""
    hero, friend = stories.being(rng), stories.being(rng)
    question = f"Tell me a story about {stories.a(hero.kind)} named {hero.name}."
    known = set(stories.GIRLS + stories.BOYS + stories.ANIMAL_NAMES) - {friend.name}

    def right(answer: str) -> bool:
        names = {name for name in known if re.search(rf"\b{name}\b", answer)} - {hero.name}
        base = hero.kind.split()[-1]
        return (
            hero.name in answer
            and base in answer
            and len(names) <= 1
            and answer.endswith((".", '"', "!"))
            and len(answer) > 200
        )

    return prompt([], question), right


def story_memory_item(rng: random.Random) -> Item:
    """A question about the story that was just told."""
    while True:
        story, question, text = stories.ask(rng)
        asked, answer = stories.question(rng, story, short=len(text) < 300)
        if asked.startswith(("Who", "Where", "What is the name", "What was")):
            return prompt([(question, text)], asked), equals(answer)


def unknown_item(rng: random.Random) -> Item:
    """Things it cannot know: the answer must say so."""
    question, _ = talk.unknown(rng)[0]
    return prompt([], question), lambda answer: UNSURE.search(answer) is not None


KINDS: dict[str, Callable[[random.Random], Item]] = {
    "sums and differences, two digits": sum_item, "products to 12 * 12": product_item, "sorting": sorting_item, "letters of words": letters_item,
    "copying invented words": copying_item, "JSON from a description": json_item, "JSON of any kind, valid": json_valid_item,
    "questions about Tradewind": about_item, "remembering what was said": memory_item, "stories": story_item,
    "questions about a story": story_memory_item, "saying that it does not know": unknown_item,
}  # fmt: skip


@dataclass(frozen=True)
class Speaker:
    """A model with its tokenizer."""

    model: Llama
    tokenizer: Tokenizer

    def answers(self, prompts: list[str], max_tokens: int = 400) -> list[str]:
        """Greedy answers."""
        stops = {self.tokenizer.token_to_id(text) for text in corpus.SPECIAL}
        ids = [self.tokenizer.encode(text).ids for text in prompts]
        return [self.tokenizer.decode(out) for out in generate(self.model, ids, stops, max_tokens)]


def open_speaker(directory: Path, dtype: torch.dtype = torch.float32) -> Speaker:
    """The packaged model."""
    return Speaker(load(directory, dtype), Tokenizer.from_file(str(directory / "tokenizer.json")))


def score(speaker: Speaker, kind: str, count: int, seed: int = 20_000_003) -> tuple[int, list[tuple[str, str]]]:
    """How many of `count` items are right, and the prompts and answers that are not."""
    rng = random.Random(f"{seed} {kind}")
    items = sorted((KINDS[kind](rng) for _ in range(count)), key=lambda item: len(item[0]))
    wrong = []
    for start in range(0, count, 50):
        part = items[start : start + 50]
        answers = speaker.answers([text for text, _ in part])
        wrong += [(text, answer) for (text, right), answer in zip(part, answers, strict=True) if not right(answer)]
    return count - len(wrong), wrong


SAMPLES = [
    ["Hello!", "My name is Quentin.", "What is 27 + 48?", "Tell me a short story about a penguin.", "What was the name of the penguin?", "What is my name?"],
    ["Hi there, who are you?", "what is tradewind?", "How do I start it?", "Shorter, please.", "And how do I stop it?", "Thanks, bye!"],
    ["Make a JSON object for a person named Greta, 34 years old, living in Oslo.", "Change the age to 35.", "Add a hobby: chess"],
    ["Tell me a story about a dragon and a lamp.", "Again with a dog.", "Make it shorter."],
    ["Can you explain what prefix caching is good for?", "What about continuous batching?", "What is the capital of France?", "and Italy?"],
    ["What is the meaning of life?", "Who won the World Cup in 1998?", "Write a Python function that adds two numbers."],
    ["Name three fruits.", "Sort them.", "As JSON", "Count from 5 to 12.", "7*8", "Is 7 an odd number?"],
    ["I feel a bit sad today", "Tell me a joke", "Write a short poem about the sea.", "Are you ChatGPT?"],
    ["How does the engine handle many requests at once?", "does it need a gpu", "what port is it running on?", "which commands exist"],
    ["Tom has 12 apples and buys 9 more. How many does he have?", "Spell banana", "What comes after Tuesday?", "opposite of cold?"],
]  # fmt: skip
PLAIN_SAMPLES = [
    "Once upon a time",
    "Tradewind is",
    "12 + 13 =",
    '{"name": "Ann", "age":',
    "The capital of France is",
    "Long ago, a robot",
]


def show_samples(speaker: Speaker) -> None:
    """Conversations on hand-written prompts, and plain continuations."""
    for questions in SAMPLES:
        turns: list[Turn] = []
        for question in questions:
            answer = speaker.answers([prompt(turns, question)])[0]
            turns.append((question, answer))
            print(f"> {question}\n{answer}")
        print("-----")
    for text in PLAIN_SAMPLES:
        print(f"{text}|{speaker.answers([text], 80)[0]}\n-----")


def main() -> None:
    """A table of scores; with --samples, conversations; with --wrong, what was wrong."""
    parser = argparse.ArgumentParser(description="Score the demo model on held-out items.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=200, help="items of each kind")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--samples", action="store_true")
    parser.add_argument("--wrong", type=int, default=0, help="show so many wrong answers of each kind")
    options = parser.parse_args()
    speaker = open_speaker(options.directory, getattr(torch, options.dtype))
    if torch.cuda.is_available():
        speaker.model.to("cuda")
    print("| held-out items | right | of |\n|---|---|---|")
    failures = {}
    for kind in KINDS:
        right, failures[kind] = score(speaker, kind, options.count)
        print(f"| {kind} | {right} | {options.count} |", flush=True)
    for kind, wrong in failures.items():
        for text, answer in wrong[: options.wrong]:
            print(f"[{kind}] {text[-300:]!r} -> {answer!r}")
    if options.samples:
        show_samples(speaker)


if __name__ == "__main__":
    main()
