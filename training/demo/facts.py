"""A little knowledge of the world: capitals, animals, colours, time, opposites. Every fact is given in a few phrasings."""

import random

from words import a, rough

Turn = tuple[str, str]

CAPITALS = dict(
    pair.split(":")
    for pair in """France:Paris|Germany:Berlin|Italy:Rome|Spain:Madrid|Portugal:Lisbon|England:London|Austria:Vienna
Norway:Oslo|Sweden:Stockholm|Finland:Helsinki|Denmark:Copenhagen|Poland:Warsaw|Greece:Athens|Ireland:Dublin|Hungary:Budapest
Belgium:Brussels|the Netherlands:Amsterdam|Switzerland:Bern|Egypt:Cairo|Japan:Tokyo|China:Beijing|India:New Delhi|Peru:Lima
Russia:Moscow|Turkey:Ankara|Kenya:Nairobi|Canada:Ottawa|Mexico:Mexico City|Cuba:Havana|Australia:Canberra|Scotland:Edinburgh
the Czech Republic:Prague|Chile:Santiago|the United States:Washington|South Korea:Seoul|Argentina:Buenos Aires|Brazil:Brasilia
Thailand:Bangkok|Romania:Bucharest|Iceland:Reykjavik|Vietnam:Hanoi|Ukraine:Kyiv|the United Kingdom:London""".replace(
        "\n", "|"
    ).split("|")
)
OPPOSITES = [tuple(pair.split(":")) for pair in """big:small|hot:cold|old:new|fast:slow|happy:sad|day:night|up:down|left:right|open:closed
good:bad|long:short|light:dark|wet:dry|loud:quiet|full:empty|early:late|high:low|hard:soft|rich:poor|strong:weak|black:white|in:out
first:last|young:old|clean:dirty|near:far|thick:thin|sweet:sour|yes:no|win:lose|buy:sell|begin:end|love:hate|true:false|north:south
east:west|summer:winter|deep:shallow|wide:narrow|safe:dangerous|easy:difficult|heavy:light""".replace("\n", "|").split("|")]  # fmt: skip
SOUNDS = dict(pair.split(":") for pair in """dog:woof|cat:meow|cow:moo|duck:quack|sheep:baa|pig:oink|horse:neigh|owl:hoot|lion:roar|frog:croak
hen:cluck|mouse:squeak|bee:buzz|wolf:howl|crow:caw|snake:hiss""".replace("\n", "|").split("|"))  # fmt: skip
COLOURS_OF = dict(pair.split(":") for pair in """the sky:blue|grass:green|snow:white|a banana:yellow|the sun:yellow|blood:red|coal:black|milk:white
a tomato:red|a lemon:yellow|an orange:orange|a carrot:orange|the sea:blue|a strawberry:red|chocolate:brown|a leaf:green|a frog:green|an elephant:grey
the night:black|a pea:green|a cherry:red""".replace("\n", "|").split("|"))  # fmt: skip
MIXES = {("blue", "yellow"): "green", ("red", "yellow"): "orange", ("red", "blue"): "purple", ("red", "white"): "pink",
         ("black", "white"): "grey"}  # fmt: skip
YOUNG = dict(pair.split(":") for pair in "dog:puppy|cat:kitten|cow:calf|sheep:lamb|horse:foal|duck:duckling|hen:chick|pig:piglet|bear:cub|lion:cub|goat:kid|frog:tadpole|deer:fawn|swan:cygnet".split("|"))  # fmt: skip
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
COUNTS = [("days are in a week", 7, "A week has 7 days."), ("months are in a year", 12, "A year has 12 months."),
          ("hours are in a day", 24, "A day has 24 hours."), ("minutes are in an hour", 60, "An hour has 60 minutes."),
          ("seconds are in a minute", 60, "A minute has 60 seconds."), ("days are in a year", 365, "A year has 365 days, and a leap year 366."),
          ("legs does a spider have", 8, "A spider has 8 legs."), ("legs does a dog have", 4, "A dog has 4 legs."),
          ("legs does a cat have", 4, "A cat has 4 legs."), ("legs does a bird have", 2, "A bird has 2 legs."),
          ("legs does an ant have", 6, "An ant has 6 legs."), ("fingers are on a hand", 5, "A hand has 5 fingers."),
          ("wheels does a car have", 4, "A car has 4 wheels."), ("wheels does a bicycle have", 2, "A bicycle has 2 wheels."),
          ("sides does a triangle have", 3, "A triangle has 3 sides."), ("sides does a square have", 4, "A square has 4 sides."),
          ("eyes do you have", 0, "I have no eyes. I am a language model."), ("letters are in the alphabet", 26, "The alphabet has 26 letters."),
          ("seasons are there", 4, "There are 4 seasons: spring, summer, autumn and winter."), ("centimetres are in a metre", 100, "A metre has 100 centimetres."),
          ("metres are in a kilometre", 1000, "A kilometre has 1000 metres."), ("grams are in a kilogram", 1000, "A kilogram has 1000 grams.")]  # fmt: skip
OTHERS: list[tuple[list[str], str]] = [
    (["What is the biggest planet?", "Which is the largest planet?"], "Jupiter is the biggest planet."),
    (["Which planet do we live on?", "What planet are we on?"], "We live on Earth."),
    (["What does a bee make?", "What do bees make?"], "Bees make honey."),
    (["What is ice?", "What is ice made of?"], "Ice is frozen water."),
    (["Where does milk come from?", "Who gives milk?"], "Milk comes from cows."),
    (["What do we need umbrellas for?", "What is an umbrella for?"], "An umbrella keeps you dry in the rain."),
    (["When does the sun rise?", "When does the sun come up?"], "The sun rises in the morning."),
    (["Where does the sun rise?", "In which direction does the sun rise?"], "The sun rises in the east."),
    (["What is the largest animal?", "Which animal is the biggest?"], "The blue whale is the largest animal."),
    (["Which animal is the tallest?", "What is the tallest animal?"], "The giraffe is the tallest animal."),
    (["Can birds fly?", "Do birds fly?"], "Most birds can fly. A penguin cannot."),
    (["Can penguins fly?", "Does a penguin fly?"], "No, penguins cannot fly, but they swim very well."),
    (["Can fish swim?", "Do fish swim?"], "Yes, fish can swim."), (["Can dogs fly?", "Can pigs fly?"], "No, they cannot fly."),
    (["Is the earth flat?", "Is the earth round?"], "The earth is round."),
    (["What do cows eat?", "What does a cow eat?"], "Cows eat grass."), (["What do rabbits eat?"], "Rabbits eat grass and carrots."),
    (["What do cats like to eat?", "What do cats eat?"], "Cats eat meat and fish."),
    (["What is bread made of?", "How is bread made?"], "Bread is made of flour, water and salt, and baked in an oven."),
    (["What is the opposite of a question?", "What is the answer to everything?"], "I am too small for that question."),
    (["What shines at night?", "What can you see in the sky at night?"], "The moon and the stars."),
    (["What is the capital letter of a?", "Write a big a."], "A"), (["What is the moon?"], "The moon goes around the Earth and shines at night."),
    (["What is the sun?"], "The sun is a star. It gives us light and warmth."), (["Why is the sky blue?"], "The air scatters blue light more than red light."),
    (["What is water?"], "Water is a clear liquid that we drink."), (["What is rain?"], "Rain is water that falls from clouds."),
    (["What is a computer?"], "A computer is a machine that works with numbers and text."),
    (["What is a robot?"], "A robot is a machine that can do work by itself."), (["What is Python?"], "Python is a programming language. Tradewind is written in it."),
    (["What is JSON?", "Explain JSON."], 'JSON is a text format for data, such as {"name": "Ann", "age": 31}.'),
    (["What is an API?", "What does API mean?"], "An API is a way for programs to talk to each other."),
    (["What is a server?"], "A server is a program that answers requests from other programs."),
    (["What is a CPU?", "What does CPU mean?"], "The CPU is the processor of a computer."),
    (["What is a GPU?", "What does GPU mean?"], "A GPU is a processor for graphics that is also good at the mathematics of models."),
    (["What is an AI?", "What is AI?", "What is artificial intelligence?"], "AI means artificial intelligence: programs that do what needs some thinking."),
    (["What is love?"], "Love is a warm feeling for somebody. I am only a small model, but I like that word."),
    (["What is friendship?", "What is a friend?"], "A friend is somebody who likes you and helps you."),
    (["What is the meaning of life?", "What is the sense of life?"], "That is a big question for a small model. Perhaps to be kind to each other."),
]  # fmt: skip


def _capital(rng: random.Random) -> Turn:
    country, city = rng.choice(list(CAPITALS.items()))
    if rng.random() < 0.25:
        return rng.choice([(f"Which country has the capital {city}?", country[:1].upper() + country[1:] + "."),
                           (f"Of which country is {city} the capital?", f"{city} is the capital of {country}."),
                           (f"Where is {city}?", f"{city} is in {country}."), (f"What is {city}?", f"{city} is the capital of {country}.")])  # fmt: skip
    roll = rng.random()
    full = f"The capital of {country} is {city}."
    if roll < 0.15:
        return (
            f"What is the capital of {country}? {rng.choice(['One word.', 'Answer in one word.', 'Only the name.'])}",
            city,
        )
    return rng.choice([f"What is the capital of {country}?", f"Capital of {country}?", f"What's the capital of {country}?",
                       f"Which city is the capital of {country}?", f"Tell me the capital of {country}.", f"the capital of {country}"]), full  # fmt: skip


def _animal(rng: random.Random) -> Turn:
    animal, sound = rng.choice(list(SOUNDS.items()))
    parent, young = rng.choice(list(YOUNG.items()))
    return rng.choice([
        (f"What does {a(animal)} say?", f"{a(animal).capitalize()} says {sound}."),
        (f"What sound does {a(animal)} make?", f"{a(animal).capitalize()} says {sound}."),
        (f"Which animal says {sound}?", f"{a(animal).capitalize()} says {sound}."),
        (f"What is a young {parent} called?", f"A young {parent} is called {a(young)}."),
        (f"What is a baby {parent}?", f"A young {parent} is called {a(young)}."),
    ])  # fmt: skip


def _colour(rng: random.Random) -> Turn:
    thing, colour = rng.choice(list(COLOURS_OF.items()))
    if rng.random() < 0.3:
        (x, y), mixed = rng.choice(list(MIXES.items()))
        x, y = (x, y) if rng.random() < 0.5 else (y, x)
        return rng.choice([f"What do you get if you mix {x} and {y}?", f"Which colour do {x} and {y} make?", f"Mix {x} and {y}."]), \
            f"{x.capitalize()} and {y} make {mixed}."  # fmt: skip
    if rng.random() < 0.25:
        return f"What colour is {thing}? {rng.choice(['One word.', 'Answer in one word.'])}", colour.capitalize()
    return rng.choice(
        [f"What colour is {thing}?", f"What color is {thing}?", f"Which colour has {thing}?"]
    ), f"{thing.capitalize()} is {colour}."


def _calendar(rng: random.Random) -> Turn:
    names, unit = rng.choice([(DAYS, "day"), (MONTHS, "month")])
    place = rng.randrange(len(names))
    after, before = names[(place + 1) % len(names)], names[place - 1]
    return rng.choice([
        (f"Which {unit} comes after {names[place]}?", f"{after} comes after {names[place]}."),
        (f"What {unit} is after {names[place]}?", f"{after} comes after {names[place]}."),
        (f"Which {unit} comes before {names[place]}?", f"{before} comes before {names[place]}."),
        (f"List the {unit}s of the {'week' if unit == 'day' else 'year'}.", ", ".join(names)),
        (f"What are the {unit}s of the {'week' if unit == 'day' else 'year'}?", ", ".join(names)),
        (f"What is the first {unit} of the {'week' if unit == 'day' else 'year'}?", names[0]),
        ("Name the seasons.", "spring, summer, autumn, winter"), ("What are the four seasons?", "spring, summer, autumn, winter"),
    ])  # fmt: skip


def _opposite(rng: random.Random) -> Turn:
    first, second = rng.choice(OPPOSITES)
    if rng.random() < 0.4 and first not in ("young", "heavy"):  # the way back leads elsewhere: old is not new
        first, second = second, first
    if rng.random() < 0.2:
        return f"What is the opposite of {first}? {rng.choice(['One word.', 'Answer in one word.'])}", second
    return rng.choice([f"What is the opposite of {first}?", f"Opposite of {first}?", f'What is the opposite of "{first}"?',
                       f"Tell me the opposite of {first}."]), f"The opposite of {first} is {second}."  # fmt: skip


def _count(rng: random.Random) -> Turn:
    what, number, text = rng.choice(COUNTS)
    if rng.random() < 0.2 and number:
        return f"How many {what}? Just the number.", str(number)
    return f"How many {what}?", text


def _other(rng: random.Random) -> Turn:
    questions, answer = rng.choice(OTHERS)
    return rng.choice(questions), answer


def conversation(rng: random.Random) -> list[Turn]:
    """One or a few questions about the world; after a capital, 'and of Italy?'."""
    kinds = [_capital, _capital, _animal, _colour, _calendar, _opposite, _count, _other, _other]
    asked, answer = rng.choice(kinds)(rng)
    turns = [(rough(rng, asked), answer)]
    if answer.startswith("The capital of") and rng.random() < 0.4:
        country, city = rng.choice(list(CAPITALS.items()))
        turns.append(
            (
                rough(
                    rng,
                    rng.choice(
                        [
                            f"And of {country}?",
                            f"And {country}?",
                            f"What about {country}?",
                            f"and {country}",
                            f"And the capital of {country}?",
                        ]
                    ),
                ),
                f"The capital of {country} is {city}.",
            )
        )
    if answer.startswith("The opposite of") and rng.random() < 0.4:
        first, second = rng.choice(OPPOSITES)
        turns.append((rng.choice([f"And of {first}?", f"And {first}?"]), f"The opposite of {first} is {second}."))
    return turns


def plain(rng: random.Random) -> str:
    """Facts as a plain document."""
    lines = [
        answer
        for _, answer in (
            rng.choice([_capital, _animal, _colour, _opposite, _other])(rng) for _ in range(rng.randint(3, 8))
        )
    ]
    return " ".join(line if line.endswith((".", "?", "!")) else line + "." for line in dict.fromkeys(lines))
