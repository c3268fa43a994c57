"""Small JSON objects: made from a description, changed on request, read back. Always valid JSON."""

import json
import random
from collections.abc import Callable
from typing import Any

from words import (
    ANIMAL_NAMES,
    ANIMALS,
    CITIES,
    COLOURS,
    FOODS,
    HOBBIES,
    JOBS,
    THINGS,
    a,
    invented,
    listed,
    person,
    pick,
    rough,
)

Turn = tuple[str, str]
Object = dict[str, Any]


def dump(value: object) -> str:
    """JSON as the model writes it: one line, a space after colons and commas."""
    return json.dumps(value, ensure_ascii=False)


def _city(rng: random.Random) -> str:
    return invented(rng).capitalize() if rng.random() < 0.1 else rng.choice(CITIES)


def somebody(rng: random.Random) -> tuple[Object, str]:
    """A person as an object, and a sentence that says the same."""
    fields: Object = {"name": person(rng)}
    clauses = []
    for key in [k for k in ("age", "job", "city", "hobby") if rng.random() < 0.6] or ["age"]:
        if key == "age":
            fields["age"] = rng.randint(1, 99)
            clauses.append(
                rng.choice(
                    ["is {0} years old", "is {0}", "aged {0}", "{0} years old", "age {0}", "is aged {0}"]
                ).format(fields["age"])
            )
        elif key == "job":
            fields["job"] = rng.choice(JOBS)
            clauses.append(
                rng.choice(["is {0}", "works as {0}", "working as {0}", "who is {0}", "whose job is {0}"]).format(
                    a(fields["job"])
                )
            )
        elif key == "city":
            fields["city"] = _city(rng)
            clauses.append(
                rng.choice(
                    [
                        "lives in {0}",
                        "is from {0}",
                        "living in {0}",
                        "from {0}",
                        "who lives in {0}",
                        "in {0}",
                        "lives at {0}",
                    ]
                ).format(fields["city"])
            )
        else:
            fields["hobby"] = rng.choice(HOBBIES)
            clauses.append(
                rng.choice(
                    ["likes {0}", "loves {0}", "who likes {0}", "liking {0}", "who loves {0}", "enjoys {0}"]
                ).format(fields["hobby"])
            )
    joined = listed(clauses) if rng.random() < 0.7 else ", ".join(clauses)
    opening = pick(
        rng,
        [
            "{n} ",
            "{n} ",
            "{n}, ",
            "a person named {n}, ",
            "a user called {n}, ",
            "someone named {n} who ",
            "my friend {n} ",
        ],
        n=fields["name"],
    )
    return fields, f"{opening}{joined}."


def something(rng: random.Random) -> tuple[Object, str]:
    """A thing or a pet as an object, and a sentence that says the same."""
    if rng.random() < 0.5:
        fields: Object = {"animal": rng.choice(ANIMALS), "name": rng.choice(ANIMAL_NAMES), "age": rng.randint(1, 20)}
        if rng.random() < 0.5:
            fields["colour"] = rng.choice(COLOURS)
            return (
                fields,
                f"{fields['name']} is {a(fields['colour'] + ' ' + fields['animal'])} and {fields['age']} years old.",
            )
        return fields, f"{fields['name']} is {a(fields['animal'])} and {fields['age']} years old."
    fields = {"item": rng.choice(THINGS), "colour": rng.choice(COLOURS), "price": rng.randint(1, 99)}
    text = f"The {fields['item']} is {fields['colour']} and costs {fields['price']}."
    if rng.random() < 0.4:
        fields["in_stock"] = rng.random() < 0.5
        text += " It is in stock." if fields["in_stock"] else " It is not in stock."
    return fields, text


DESCRIBED = [
    "Make a JSON object for {t}", "Write JSON for {t}", "Create JSON for {t}", "Give me JSON for {t}", "Make JSON: {t}",
    "{t} Write this as JSON.", "Make a JSON object: {t}", "Turn this into JSON: {t}", "{t} As JSON, please.", "JSON: {t}",
    "Write a JSON object for this: {t}", "Convert to JSON: {t}", "{t} Give me a JSON object with the keys {k}.",
    "Give me JSON with {k}. {t}", "Return JSON only. {t}", "{t} Make a JSON object of it.", "Extract the data as JSON: {t}",
]  # fmt: skip


def described(rng: random.Random) -> tuple[str, Object]:
    """A request with a description, and the object."""
    fields, text = somebody(rng) if rng.random() < 0.65 else something(rng)
    return rough(rng, pick(rng, DESCRIBED, t=text, k=listed(list(fields)))), fields


def listed_fields(rng: random.Random) -> tuple[str, Object]:
    """A request that names keys and values, and the object."""
    fields = (somebody(rng) if rng.random() < 0.65 else something(rng))[0]
    pairs = listed(
        [
            f"{key.replace('_', ' ')} {value if not isinstance(value, bool) else 'yes' if value else 'no'}"
            for key, value in fields.items()
        ]
    )
    asks = ["Make a JSON object with {p}.", "Write JSON with {p}.", "Create a JSON object: {p}.", "JSON object with {p}",
            "Give me a JSON object with {p}.", "Write a JSON object for a person with {p}." if "city" in fields else "JSON with {p}"]  # fmt: skip
    return rough(rng, pick(rng, asks, p=pairs)), fields


def free(rng: random.Random) -> list[Turn]:
    """An object whose values are invented."""
    roll = rng.random()
    if roll < 0.5:
        asks = ["Write a JSON object about a person.", "Make a small JSON object.", "Give me an example of JSON.", "Write some JSON.",
                "Make up a person as JSON.", "Give me a JSON object.", "Show me a JSON object", "json", "Generate a random JSON object.",
                "Create a user as JSON.", "Make a JSON object for a user."]  # fmt: skip
        return [(rough(rng, rng.choice(asks)), dump(somebody(rng)[0]))]
    if roll < 0.7:
        name = person(rng)
        fields = {"name": name, "age": rng.randint(1, 99), "city": _city(rng)}
        keys = rng.sample(["name", "age", "city"], 3)[: rng.choice((2, 3))]
        asks = [
            "Write a JSON object with the keys {k}.",
            "JSON with {k}",
            "Give me a JSON object with {k}.",
            "Make JSON with the fields {k}.",
        ]
        return [(rough(rng, pick(rng, asks, k=listed(keys))), dump({key: fields[key] for key in keys}))]
    if roll < 0.85:
        animal = rng.choice(ANIMALS)
        asks = ["Make a JSON object about {x}.", "Write a JSON object for {x}.", "Describe {x} as JSON.", "{x} as JSON"]
        fields = {"animal": animal, "name": rng.choice(ANIMAL_NAMES), "age": rng.randint(1, 20)}
        return [(rough(rng, pick(rng, asks, x=a(animal))), dump(fields))]
    count = rng.randint(2, 3)
    people = [{"name": person(rng), "age": rng.randint(1, 99)} for _ in range(count)]
    asks = [
        "Make a JSON array of {n} people with name and age.",
        "JSON list of {n} people.",
        "Write {n} people as JSON.",
    ]
    return [(rough(rng, pick(rng, asks, n={2: "two", 3: "three"}[count])), dump(people))]


def arrays(rng: random.Random) -> list[Turn]:
    """Lists as JSON arrays."""
    words = rng.sample(rng.choice([ANIMALS, FOODS, CITIES, COLOURS]), rng.randint(2, 5))
    numbers = rng.sample(range(100), rng.randint(2, 5))
    asks = ["Write {w} as a JSON array.", "Make a JSON array of {w}.", "JSON list: {w}", "Turn {w} into a JSON list."]
    items: list[Any] = words if rng.random() < 0.6 else list(numbers)
    return [(rough(rng, pick(rng, asks, w=listed([str(item) for item in items]))), dump(items))]


def _change(rng: random.Random, fields: Object) -> tuple[str, Object]:
    changed = dict(fields)
    key = rng.choice(list(fields))
    value: Any = rng.randint(1, 99) if isinstance(fields[key], int) else person(rng) if key == "name" else None
    roll = rng.random()
    if roll < 0.5 and value is not None and not isinstance(fields[key], bool):
        changed[key] = value
        return pick(
            rng,
            [
                "Change the {k} to {v}.",
                "Set {k} to {v}.",
                "Make the {k} {v}.",
                "The {k} should be {v}.",
                "Change {k} to {v}.",
                "{k} = {v}",
                "No, the {k} is {v}.",
            ],
            k=key,
            v=value,
        ), changed
    if roll < 0.75 and len(fields) > 1:
        del changed[key]
        return pick(
            rng, ["Remove the {k}.", "Without the {k}, please.", "Delete {k}.", "Leave out the {k}."], k=key
        ), changed
    new, value = rng.choice([("hobby", rng.choice(HOBBIES)), ("city", _city(rng)), ("job", rng.choice(JOBS)), ("country", rng.choice(["Italy", "France", "Spain", "Norway", "Japan"])), ("height", rng.randint(100, 200)),
                             ("active", True), ("id", rng.randint(1, 999)), ("food", rng.choice(FOODS))])  # fmt: skip
    if new in fields:
        return _change(rng, fields)
    changed[new] = value
    shown = "true" if value is True else value
    return pick(
        rng,
        [
            "Add {k} {v}.",
            "Add the key {k} with {v}.",
            "Also add {k}: {v}.",
            "Add a {k}: {v}",
            "Add the {k} {v}.",
            "add {k} = {v}",
            "And the {k} is {v}.",
            "Add {k} with the value {v}.",
        ],
        k=new,
        v=shown,
    ), changed


def editing(rng: random.Random) -> list[Turn]:
    """An object, then changes to it and questions about it."""
    request, fields = described(rng) if rng.random() < 0.6 else listed_fields(rng)
    turns = [(request, dump(fields))]
    while rng.random() < 0.45 and len(turns) < 5:
        if rng.random() < 0.65:
            request, fields = _change(rng, fields)
            turns.append((rough(rng, request), dump(fields)))
        else:
            key = rng.choice(list(fields))
            asks = ["What is the {k}?", "What is the value of {k}?", "Which {k} does it have?"]
            value = fields[key]
            turns.append((pick(rng, asks, k=key), dump(value).strip('"')))
    return turns


def reading(rng: random.Random) -> list[Turn]:
    """Questions about a given object."""
    fields = (somebody(rng) if rng.random() < 0.6 else something(rng))[0]
    key = rng.choice(list(fields))
    value = dump(fields[key]).strip('"')
    text = dump(fields)
    return [rng.choice([
        (f"What is the {key} in {text}?", value), (f"{text} What is the {key}?", value), (f"Read the {key} from this JSON: {text}", value),
        (f"Which keys are in {text}?", ", ".join(fields)), (f"How many keys has {text}?", str(len(fields))),
        (f"Is this valid JSON? {text}", "Yes, this is valid JSON."), (f"Is this valid JSON? {text[:-1]}", "No, the closing brace is missing."),
    ])]  # fmt: skip


MIX: list[tuple[float, Callable[[random.Random], list[Turn]]]] = [(5, editing), (2, free), (1, arrays), (1.5, reading)]


def plain(rng: random.Random) -> str:
    """Objects as a plain document, one to a line."""
    kind = somebody if rng.random() < 0.6 else something
    return "\n".join(dict.fromkeys(dump(kind(rng)[0]) for _ in range(rng.randint(1, 3))))
