"""The packaged demo model: small enough, complete, and able to hold a short conversation through Tradewind."""

import json

import pytest

from tradewind import LLM, SamplingParams

MOST_BYTES = 7_900_000
# Right answers out of 12 below which the weights or the files around them are broken; the card has the real scores.
FLOORS = {
    "sums and differences, two digits": 10,
    "JSON from a description": 10,
    "questions about Tradewind": 7,
    "remembering what was said": 10,
    "saying that it does not know": 10,
}


@pytest.fixture(scope="module")
def llm():
    with LLM("demo", threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def talk(llm):
    """The greedy answers of one conversation, each question asked with all that came before."""

    def answers(*questions, system=None):
        messages = [] if system is None else [{"role": "system", "content": system}]
        for question in questions:
            messages.append({"role": "user", "content": question})
            (answer,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=300), progress=False)
            messages.append({"role": "assistant", "content": answer.outputs[0].text})
        return [message["content"] for message in messages if message["role"] == "assistant"]

    return answers


def test_everything_together_is_small(demo):
    assert sum(path.stat().st_size for path in demo.iterdir()) < MOST_BYTES


def test_it_greets_and_remembers_a_name(talk):
    greeting, _, name = talk("Hello! My name is Nora.", "What is 12 + 30?", "What is my name?")
    assert "Nora" in greeting
    assert name == "Your name is Nora."


def test_it_tells_a_story_and_tells_it_again(talk):
    story, name, again = talk(
        "Tell me a story about a fox named Pip.", "What was the name of the fox?", "Again with a dog."
    )
    assert "fox" in story
    assert len(story.split(". ")) >= 5
    assert name == "The fox was named Pip."
    assert "dog" in again
    assert "fox" not in again


def test_it_writes_and_changes_json(talk):
    first, second = talk("Make a JSON object for Greta, 34 years old, living in Oslo.", "Change the age to 35.")
    assert json.loads(first) == {"name": "Greta", "age": 34, "city": "Oslo"}
    assert json.loads(second) == {"name": "Greta", "age": 35, "city": "Oslo"}


def test_it_says_what_tradewind_is_and_how_to_start_it(talk):
    what, start, stop = talk("What is Tradewind?", "How do I start it?", "And how do I stop it?", system="Be helpful.")
    assert "engine" in what or "language model" in what
    assert "make serve" in start
    assert "Ctrl-C" in stop


def test_plain_text_goes_on_as_a_story(llm):
    (answer,) = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=300), progress=False)
    assert "named" in answer.outputs[0].text or "called" in answer.outputs[0].text
    assert answer.outputs[0].finish_reason == "stop"


def test_its_own_settings_are_sensible(llm):
    assert 0 < llm.defaults.temperature <= 1
    assert {llm.tokenizer.token_text(token) for token in llm.defaults.eos_token_ids} == {"<|im_end|>", "<|endoftext|>"}


def test_tradewind_speaks_as_the_training_code_does(demo, script):
    evaluate = script("evaluate")
    questions = ["What is prefix caching?", "Sort: pear, apple, fig", "Spell ship", "Tell me a story about a robot."]
    expected = evaluate.open_speaker(demo).answers([evaluate.prompt([], question) for question in questions])
    chats = [[{"role": "user", "content": question}] for question in questions]
    with LLM("demo", dtype="float32", threads=1) as llm:
        answers = llm.chat(chats, SamplingParams(temperature=0, max_tokens=400), progress=False)
    assert [answer.outputs[0].text for answer in answers] == expected


@pytest.mark.parametrize("kind", FLOORS)
def test_the_score_does_not_fall_below_its_floor(demo, script, kind):
    evaluate = script("evaluate")
    right, wrong = evaluate.score(evaluate.open_speaker(demo), kind, 12)
    assert right >= FLOORS[kind], wrong
