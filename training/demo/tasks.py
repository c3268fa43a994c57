"""Small tasks with one right answer: sums, counting, the alphabet, sorting, spelling, copying."""

import random
import string
from collections.abc import Callable

from words import (
    ANIMALS,
    BOYS,
    COLOURS,
    COMMON,
    FRUITS,
    GIRLS,
    GROUPS,
    THINGS,
    a,
    invented,
    listed,
    person,
    pick,
    plural,
    rough,
)

Turn = tuple[str, str]
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
BARE = [
    " Just the number.",
    " Only the number, please.",
    " Answer with the number only.",
    " One number.",
    " Number only.",
]


def held_out(first: int, second: int) -> bool:
    """Whether a pair of numbers is kept for the evaluation: about one in sixteen. Symmetric, so that b + a is too."""
    low, high = sorted((first, second))
    return (low * 7919 + high * 104_729) % 16 == 3


def pair(rng: random.Random, high: int, *, test: bool = False) -> tuple[int, int]:
    """Two numbers up to `high`, of the training part or of the held-out part."""
    while True:
        first, second = rng.randint(0, high), rng.randint(0, high)
        if (held_out(first, second) and first > 9 and second > 9) == test:
            return first, second


SUM_REQUESTS = {
    "+": ["What is {x} + {y}?", "{x} + {y}", "{x}+{y}", "{x} + {y} =", "{x}+{y}=?", "What is {x} plus {y}?", "Add {x} and {y}.",
          "{x} plus {y}", "How much is {x} + {y}?", "Calculate {x} + {y}.", "What is the sum of {x} and {y}?",
          "Can you add {x} and {y}?", "What's {x}+{y}?", "What do you get if you add {x} and {y}?", "Compute {x} plus {y}."],
    "-": ["What is {x} - {y}?", "{x} - {y}", "{x}-{y}", "{x} - {y} =", "What is {x} minus {y}?", "Subtract {y} from {x}.",
          "{x} minus {y}", "How much is {x} - {y}?", "Calculate {x} - {y}.", "What is the difference of {x} and {y}?",
          "Take {y} away from {x}.", "What's {x}-{y}?"],
    "*": ["What is {x} * {y}?", "{x} * {y}", "{x}*{y}", "{x} x {y}", "What is {x} times {y}?", "Multiply {x} by {y}.",
          "{x} times {y}", "How much is {x} * {y}?", "Calculate {x} * {y}.", "What is the product of {x} and {y}?",
          "What's {x}x{y}?"],
    "/": ["What is {x} / {y}?", "{x} / {y}", "{x}/{y}", "Divide {x} by {y}.", "What is {x} divided by {y}?", "{x} divided by {y}",
          "How much is {x} / {y}?"],
}  # fmt: skip


def operands(rng: random.Random, sign: str, *, test: bool = False) -> tuple[int, int, int]:
    """Two numbers and the result."""
    if sign == "*":
        x, y = rng.randint(0, 12), rng.randint(0, 12)
        return x, y, x * y
    if sign == "/":
        y, result = rng.randint(1, 12), rng.randint(0, 12)
        return y * result, y, result
    x, y = pair(
        rng, 999 if rng.random() < 0.08 and not test else 20 if rng.random() < 0.1 and not test else 99, test=test
    )
    if sign == "+":
        return x, y, x + y
    if x < y and rng.random() < 0.9:
        x, y = y, x
    return x, y, x - y


def sums(rng: random.Random, *, test: bool = False, sign: str | None = None) -> list[Turn]:
    """A sum, and sometimes more that go on from its result."""
    sign = sign or rng.choice("++++---**/")
    x, y, result = operands(rng, sign, test=test)
    request = pick(rng, SUM_REQUESTS[sign], x=x, y=y)
    if rng.random() < 0.2:
        return [(rough(rng, request) + rng.choice(BARE), str(result))]
    turns = [(rough(rng, request), f"{x} {sign} {y} = {result}")]
    while not test and rng.random() < 0.25 and len(turns) < 4:
        more = rng.randint(1, 20)
        if rng.random() < 0.5 or result < more:
            request, text = (
                pick(rng, ["plus {n}?", "And plus {n}?", "Now add {n}.", "Add {n} to that.", "+ {n}"], n=more),
                "+",
            )
        else:
            request, text = (
                pick(rng, ["minus {n}?", "And minus {n}?", "Now subtract {n}.", "Take away {n}.", "- {n}"], n=more),
                "-",
            )
        after = result + more if text == "+" else result - more
        turns.append((request, f"{result} {text} {more} = {after}"))
        result = after
    return turns


def chains(rng: random.Random) -> list[Turn]:
    """Three numbers to add, doubles and halves, squares."""
    x, y, z = (rng.randint(1, 20) for _ in range(3))
    n = rng.randint(1, 50)
    return [rng.choice([
        (f"What is {x} + {y} + {z}?", f"{x} + {y} = {x + y}, and {x + y} + {z} = {x + y + z}"),
        (f"{x}+{y}+{z}", f"{x} + {y} = {x + y}, and {x + y} + {z} = {x + y + z}"),
        (f"What is the double of {n}?", f"The double of {n} is {2 * n}."), (f"Double {n}.", f"The double of {n} is {2 * n}."),
        (f"What is half of {2 * n}?", f"Half of {2 * n} is {n}."), (f"Half of {2 * n}", f"Half of {2 * n} is {n}."),
        (f"Is {n} even or odd?", f"{n} is {'odd' if n % 2 else 'even'}."),
        (f"Is {n} an odd number?", f"{'Yes, it is odd' if n % 2 else 'No, it is even'}."), (f"Is {n} odd?", f"{'Yes, it is odd' if n % 2 else 'No, it is even'}."),
        (f"Is {n} even?", f"{'No, it is odd' if n % 2 else 'Yes, it is even'}."), (f"{x} plus {z} equals?", f"{x} + {z} = {x + z}"),
        (f"What is {NUMBERS[x % 13]} plus {NUMBERS[z % 13]}?", f"{x % 13} + {z % 13} = {x % 13 + z % 13}"), (f"{NUMBERS[x % 13]} times {NUMBERS[z % 13]}", f"{x % 13} * {z % 13} = {x % 13 * (z % 13)}"),
        (f"What is {NUMBERS[x % 13]} times {NUMBERS[z % 13]}?", f"{x % 13} * {z % 13} = {x % 13 * (z % 13)}"), (f"{NUMBERS[x % 13]} plus {NUMBERS[z % 13]}", f"{x % 13} + {z % 13} = {x % 13 + z % 13}"),
        (f"Is {NUMBERS[x % 13]} a number?", "Yes, it is a number."), (f"Write {x % 13} as a word.", NUMBERS[x % 13]), (f"Write {NUMBERS[z % 13]} as a number.", str(z % 13)),
        (f"Is {n} an even number?", f"{'No, it is odd' if n % 2 else 'Yes, it is even'}."),
        (f"Which is bigger, {x} or {n}?", f"{max(x, n)} is bigger than {min(x, n)}." if x != n else "They are the same."),
        (f"Which number is smaller, {x} or {n}?", f"{min(x, n)} is smaller than {max(x, n)}." if x != n else "They are the same."),
        (f"Is {x} more than {n}?", f"{'Yes' if x > n else 'No'}, {x} is {'more' if x > n else 'less'} than {n}." if x != n else
         "No, they are the same."),
        (f"What number comes after {n}?", str(n + 1)), (f"What comes before {n}?", str(n - 1)),
        (f"What is {x} squared?" if x <= 12 else f"What is {z} + {z}?", f"{x} * {x} = {x * x}" if x <= 12 else f"{z} + {z} = {2 * z}"),
    ])]  # fmt: skip


def word_problems(rng: random.Random) -> list[Turn]:
    """Sums told as a little scene."""
    name, other = person(rng), person(rng)
    thing = plural(rng.choice(FRUITS + [word for word in THINGS if " " not in word]))
    x, y = pair(rng, 40)
    x, y = max(x, y) + 1, min(x, y) + 1
    price, count = rng.randint(2, 10), rng.randint(2, 10)
    return [rng.choice([
        (f"{name} has {x} {thing} and gets {y} more. How many {thing} does {name} have now?",
         f"{x} + {y} = {x + y}, so {name} has {x + y} {thing} now."),
        (f"{name} has {x} {thing} and {other} has {y} {thing}. How many do they have together?",
         f"{x} + {y} = {x + y}, so they have {x + y} {thing} together."),
        (f"{name} has {x} {thing} and gives {y} to {other}. How many are left?", f"{x} - {y} = {x - y}, so {x - y} {thing} are left."),
        (f"There are {x} {thing} in a box. {name} takes {y}. How many are left?", f"{x} - {y} = {x - y}, so {x - y} {thing} are left."),
        (f"{name} has {x} {thing} and buys {y} more. How many does {name} have?", f"{x} + {y} = {x + y}, so {name} has {x + y} {thing} now."),
        (f"{name} has {x} {thing}. {other} gives {name} {y} more. How many {thing} are that?", f"{x} + {y} = {x + y}, so {name} has {x + y} {thing} now."),
        (f"{name} had {x} {thing} and lost {y}. How many are left?", f"{x} - {y} = {x - y}, so {x - y} {thing} are left."),
        (f"{name} has {x} {thing} and eats {y}. How many {thing} are left?", f"{x} - {y} = {x - y}, so {x - y} {thing} are left."),
        (f"One {rng.choice(FRUITS)} costs {price} coins. How much do {count} cost?",
         f"{count} * {price} = {count * price}, so they cost {count * price} coins."),
        (f"{name} reads {price} pages a day. How many pages are that in {count} days?",
         f"{count} * {price} = {count * price}, so {name} reads {count * price} pages."),
    ])]  # fmt: skip


def counting(rng: random.Random) -> list[Turn]:
    """Counting up, down and in steps; sequences."""
    start = rng.choice((1, 1, 1, rng.randint(0, 60)))
    end = start + rng.randint(3, 20)
    step = rng.choice((2, 3, 5, 10))
    up = list(range(start, end + 1))
    odd = rng.random()
    line = rng.choice((", ", ", ", " "))
    if odd < 0.5:
        asks = ["Count from {s} to {e}.", "Count from {s} to {e}", "Count up from {s} to {e}.", "Count {s} to {e}.",
                "Can you count from {s} to {e}?", "List the numbers from {s} to {e}.", "numbers from {s} to {e}"]  # fmt: skip
        if start == 1:
            asks += ["Count to {e}.", "Count to {e}", "Can you count to {e}?"]
        turns = [(rough(rng, pick(rng, asks, s=start, e=end)), ", ".join(map(str, up)))]
        if rng.random() < 0.3:
            turns.append(
                (rng.choice(["Now backwards.", "And backwards?", "Now count back."]), ", ".join(map(str, up[::-1])))
            )
        return turns
    if odd < 0.7:
        asks = ["Count down from {e} to {s}.", "Count backwards from {e} to {s}.", "Count from {e} down to {s}."]
        return [(rough(rng, pick(rng, asks, s=start, e=end)), ", ".join(map(str, up[::-1])))]
    if odd < 0.85:
        values = [step * i for i in range(1, rng.randint(5, 11))]
        asks = [f"Count by {step}s to {values[-1]}.", f"Count in steps of {step} up to {values[-1]}.",
                f"List the multiples of {step} up to {values[-1]}."]  # fmt: skip
        return [(rough(rng, rng.choice(asks)), ", ".join(map(str, values)))]
    values = [start + step * i for i in range(5)]
    ask = rng.choice(["What comes next: {v}?", "What is the next number: {v}, ...", "Continue: {v}"])
    return [(ask.format(v=line.join(map(str, values[:4]))), str(values[4]))]


def alphabet(rng: random.Random) -> list[Turn]:
    """Letters in order."""
    low = rng.randrange(0, 22)
    high = min(25, low + rng.randint(3, 25))
    letters = string.ascii_uppercase if rng.random() < 0.6 else string.ascii_lowercase
    first, last = letters[low], letters[high]
    span = ", ".join(letters[low : high + 1])
    return [rng.choice([
        ("Say the alphabet.", ", ".join(string.ascii_uppercase)), ("What is the alphabet?", ", ".join(string.ascii_uppercase)),
        (f"List the letters from {first} to {last}.", span), (f"Say the alphabet from {first} to {last}.", span),
        (f"Letters {first} to {last}", span), (f"Which letter comes after {letters[low]}?", letters[low + 1]),
        (f"What letter comes after {letters[low]}?", letters[low + 1]), (f"What comes before {letters[low + 1]} in the alphabet?", letters[low]),
        (f"Which is the letter number {low + 1} of the alphabet?", letters[low]),
        ("How many letters are in the alphabet?", "The alphabet has 26 letters."),
        ("What is the first letter of the alphabet?", "A"), ("What is the last letter of the alphabet?", "Z"),
    ])]  # fmt: skip


def sorting(rng: random.Random) -> list[Turn]:
    """Words and numbers to put in order, the largest, the longest."""
    roll = rng.random()
    if roll < 0.45:
        words = rng.sample(rng.choice([ANIMALS, FRUITS, COLOURS, COMMON, GIRLS + BOYS]), rng.randint(3, 6))
        asks = ["Sort these words: {w}.", "Sort {w} alphabetically.", "Put these words in alphabetical order: {w}",
                "Sort: {w}", "Order these words by alphabet: {w}", "Sort the words {w}."]  # fmt: skip
        turns = [(rough(rng, pick(rng, asks, w=", ".join(words)), lower=False), ", ".join(sorted(words)))]
        if rng.random() < 0.25:
            turns.append(
                (
                    rng.choice(["Now backwards.", "Reverse the list.", "In reverse, please."]),
                    ", ".join(sorted(words)[::-1]),
                )
            )
        return turns
    values = rng.sample(range(1, 100), rng.randint(3, 7))
    shown = ", ".join(map(str, values))
    if roll < 0.8:
        asks = [
            "Sort these numbers: {w}.",
            "Sort {w}.",
            "Sort: {w}",
            "Put these numbers in order: {w}",
            "Order {w} from small to large.",
        ]
        turns = [(rough(rng, pick(rng, asks, w=shown)), ", ".join(map(str, sorted(values))))]
        if rng.random() < 0.25:
            down = ", ".join(map(str, sorted(values)[::-1]))
            turns.append((rng.choice(["Now from large to small.", "Reverse the list.", "In reverse, please."]), down))
        return turns
    extreme = rng.choice([("largest", max), ("biggest", max), ("smallest", min), ("highest", max), ("lowest", min)])
    asks = ["Which is the {e} of {w}?", "What is the {e} number: {w}?", "Find the {e} number in {w}."]
    return [(rough(rng, pick(rng, asks, e=extreme[0], w=shown)), str(extreme[1](values)))]


def letters(rng: random.Random) -> list[Turn]:
    """Spelling, reversing and counting the letters of a word."""
    word = rng.choice(COMMON)
    if rng.random() < 0.1:
        word = person(rng)
    upper = word.upper()
    capital = "It starts with" if rng.random() < 0.5 else "The first letter is"
    last = "It ends with" if rng.random() < 0.5 else "The last letter is"
    spelled = "-".join(upper)
    return [rng.choice([
        (f'Spell the word "{word}".', spelled), (f"How do you spell {word}?", spelled), (f"Spell {word}.", spelled),
        (f"Spell {word} backwards.", "-".join(upper[::-1])),
        (f'Reverse the word "{word}".', "".join(word[::-1])), (f"Reverse {word}.", "".join(word[::-1])),
        (f'What is "{word}" backwards?', "".join(word[::-1])),
        (f'How many letters are in the word "{word}"?', f'{spelled}: the word "{word}" has {len(word)} letters.'),
        (f"How many letters does {word} have?", f'{spelled}: the word "{word}" has {len(word)} letters.'),
        (f"What is the first letter of {word}?", f"{capital} {upper[0]}."),
        (f"What is the last letter of {word}?", f"{last} {upper[-1]}."),
        (f"Write {word} in capital letters.", upper), (f'"{word}" in upper case', upper),
    ])]  # fmt: skip


def lists(rng: random.Random) -> list[Turn]:
    """Lists of a given length and form."""
    group = rng.choice(list(GROUPS))
    count = rng.choice((2, 3, 3, 3, 4, 5, 5))
    names = ["zero", "one", "two", "three", "four", "five"]
    number = names[count] if rng.random() < 0.6 else str(count)
    asks = ["Name {n} {g}.", "List {n} {g}.", "Give me {n} {g}.", "Tell me {n} {g}.", "Can you name {n} {g}?", "{n} {g}",
            "Give me a list of {n} {g}.", "Write down {n} {g}.", "I need {n} {g}."]  # fmt: skip
    request = rough(rng, pick(rng, asks, n=number, g=group))
    items = rng.sample(GROUPS[group], count)
    roll = rng.random()
    if roll < 0.15:
        return [(request + rng.choice([" As a numbered list.", " Number them.", " Use numbers."]),
                 "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1)))]  # fmt: skip
    if roll < 0.3:
        return [(request + rng.choice([" As a list with dashes.", " Use bullet points.", " As bullet points."]),
                 "\n".join(f"- {item}" for item in items))]  # fmt: skip
    turns = [(request, ", ".join(items))]
    if rng.random() < 0.35:
        rest = [item for item in GROUPS[group] if item not in items]
        one = rng.choice(rest)
        more = rng.sample(rest, min(count, len(rest)))
        turns.append(rng.choice([
            (rng.choice(["One more.", "Another one.", "And one more?", "Add one more."]), ", ".join([*items, one])),
            (rng.choice([f"{number} more.", f"Another {number}.", "Other ones, please.", "Different ones."]), ", ".join(more)),
            (rng.choice(["Sort them.", "In alphabetical order, please.", "Sort the list."]), ", ".join(sorted(items))),
            (rng.choice(["As a numbered list.", "Number them."]), "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))),
            (rng.choice(["Which was the first one?", "What was the first?"]), f"The first one was {items[0]}."),
            (rng.choice(["Which was the last one?", "What was the last?"]), f"The last one was {items[-1]}."),
            (rng.choice(["As JSON.", "As a JSON array.", "Give it to me as JSON."]), "[" + ", ".join(f'"{i}"' for i in items) + "]"),
        ]))  # fmt: skip
    return turns


def some_text(rng: random.Random) -> str:
    """A few words or a short sentence, in part of invented words, for copying."""
    roll = rng.random()
    if roll < 0.3:
        return rng.choice(COMMON)
    if roll < 0.5:
        return " ".join(invented(rng) for _ in range(rng.randint(1, 3)))
    name, thing, animal = person(rng), rng.choice(THINGS), rng.choice(ANIMALS)
    return pick(rng, ["The {a} has a {t}.", "hello world", "I like {p}.", "{n} is my friend", "Good morning, {n}!", "the {c} {a}",
                      "My {a} is called {n}.", "{n} and the {t}", "I love Tradewind", "The {a} sleeps.", "red, {c}, blue",
                      "{n} sees a {c} {t} and a {a}.", "We will meet at {h} o'clock."],
                a=animal, t=thing, n=name, c=rng.choice(COLOURS), p=plural(animal), h=rng.randint(1, 12))  # fmt: skip


def copying(rng: random.Random) -> list[Turn]:
    """Say this; say it again; say it in capitals; how many words; which words."""
    text = some_text(rng)
    times = rng.randint(2, 4)
    if rng.random() < 0.12:
        name = person(rng)
        asks = [
            "Say hello to {n}.",
            "Greet {n}.",
            "Say hi to {n}.",
            "Write a greeting for {n}.",
            "Please greet my friend {n}.",
        ]
        return [(pick(rng, asks, n=name), pick(rng, ["Hello, {n}!", "Hello, {n}! Nice to meet you."], n=name))]
    if rng.random() < 0.03:
        return [(rng.choice(["Say hi.", "Say hello.", "Say hello!", "say hi"]), rng.choice(["Hello!", "Hi!"]))]
    words = text.rstrip(".!").split()
    if rng.random() < 0.6:
        asks = ['Say "{t}".', "Repeat after me: {t}", 'Repeat: "{t}"', "Say: {t}", "Write this: {t}", 'Just say "{t}".',
                'Please write "{t}".', 'Reply with "{t}".', "Repeat this sentence: {t}",  'Answer only with "{t}".', "Respond with exactly: {t}", "Reply with exactly: {t}", "Echo: {t}", "Copy this: {t}",
                "Output: {t}", 'Repeat "{t}".', "Say exactly this: {t}", "Write the words {t}"]  # fmt: skip
        turns = [(pick(rng, asks, t=text), text)]
        if rng.random() < 0.25:
            turns.append((rng.choice(["Again.", "Once more.", "Say it again."]), text))
        if rng.random() < 0.2:
            turns.append((rng.choice(["In capital letters.", "Now in upper case.", "LOUDER!"]), text.upper()))
        return turns
    return [rng.choice([
        (f'Say "{text}" {times} times.', "\n".join([text] * times)), (f"Write {text} in capital letters: ", text.upper()),
        (f'Write "{text}" in upper case.', text.upper()),
        (f'What is the first word of "{text}"?', f'The first word is "{words[0]}".'),
        (f'What is the last word of "{text}"?', f'The last word is "{words[-1]}".'),
        (f'How many words are in "{text}"?', f"There {'is 1 word' if len(words) == 1 else f'are {len(words)} words'}."),
    ])]  # fmt: skip


def sentences(rng: random.Random) -> list[Turn]:
    """A sentence with a given word, plurals, articles."""
    thing = rng.choice(THINGS + ANIMALS + FRUITS)
    name = person(rng)
    colour = rng.choice(COLOURS)
    made = pick(rng, ["{n} has {at}.", "The {t} is {c}.", "I saw {at} today.", "{n} found {at} in the garden.", "My {t} is very old.",
                      "There is {at} on the table.", "{n} gave me {at}."], n=name, t=thing, at=a(thing), c=colour)  # fmt: skip
    asks = ['Write a sentence with the word "{t}".', "Make a sentence with {t}.", "Use the word {t} in a sentence.",
            "Write one sentence about {at}."]  # fmt: skip
    return [rng.choice([
        (pick(rng, asks, t=thing, at=a(thing)), made), (pick(rng, asks, t=thing, at=a(thing)), made),
        (f"What is the plural of {thing}?", f'The plural of "{thing}" is "{plural(thing)}".'),
        (f"The plural of {thing}?", f'The plural of "{thing}" is "{plural(thing)}".'),
        (f'Is it "a {thing}" or "an {thing}"?', f'It is "{a(thing)}".'),
    ])]  # fmt: skip


def choices(rng: random.Random) -> list[Turn]:
    """Which of these is a fruit; does it belong to the group."""
    group, other = rng.sample(["animals", "fruits", "colours", "clothes", "tools", "vehicles", "trees", "jobs"], 2)
    singular = {"animals": "an animal", "fruits": "a fruit", "colours": "a colour", "clothes": "something to wear",
                "tools": "a tool", "vehicles": "a vehicle", "trees": "a tree", "jobs": "a job"}  # fmt: skip
    item, wrong = rng.choice(GROUPS[group]), rng.sample(GROUPS[other], 2)
    if item in GROUPS[other] or any(word in GROUPS[group] for word in wrong):
        return choices(rng)
    options = rng.sample([item, *wrong], 3)
    return [rng.choice([
        (f"Which of these is {singular[group]}: {listed(options, 'or')}?", item),
        (f"Is {item} {singular[group]}?", f"Yes, {item} is {singular[group]}."),
        (f"Is {wrong[0]} {singular[group]}?", f"No, {wrong[0]} is not {singular[group]}. It is {singular[other]}."),
        (f"What is {a(item) if group != 'clothes' else item}?", f"It is {singular[group]}."),
        (f"Choose one: {listed(options, 'or')}.", rng.choice(options)), (f"{options[0]} or {options[1]}?", rng.choice(options[:2])),
    ])]  # fmt: skip


MIX: list[tuple[float, Callable[[random.Random], list[Turn]]]] = [
    (9, sums), (1, chains), (1.5, word_problems), (1.5, counting), (0.7, alphabet), (1.5, sorting), (1.5, letters), (1.5, lists),
    (1.5, copying), (0.7, sentences), (0.7, choices),
]  # fmt: skip


def plain(rng: random.Random) -> str:
    """Sums, numbers or letters as a plain document."""
    if rng.random() < 0.8:
        lines = []
        for _ in range(rng.randint(4, 14)):
            sign = rng.choice("++-*")
            x, y, result = operands(rng, sign)
            lines.append(f"{x} {sign} {y} = {result}")
        return "\n".join(dict.fromkeys(lines))
    start = rng.randint(0, 50)
    return ", ".join(map(str, range(start, start + rng.randint(8, 30))))
