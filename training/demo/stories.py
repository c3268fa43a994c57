"""Short stories from a grammar: who, where and what are chosen once, and every sentence refers back to them."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from words import (
    ANIMAL_NAMES,
    ANIMALS,
    BOYS,
    COLOURS,
    FEMALE_KINDS,
    FOODS,
    GIRLS,
    MALE_KINDS,
    PLACES,
    STORY_PEOPLE,
    THINGS,
    a,
    invented,
    pick,
    rough,
)  # fmt: skip

Turn = tuple[str, str]


@dataclass(frozen=True)
class Being:
    """Somebody in a story."""

    name: str
    kind: str
    female: bool

    def slots(self, prefix: str) -> dict[str, str]:
        """The names that the templates use: {hero} {kind} {he} {him} {his} {He} {His}, with the given prefix."""
        he, him, his = ("she", "her", "her") if self.female else ("he", "him", "his")
        words = {"kind": self.kind, "a_kind": a(self.kind), "he": he, "him": him, "his": his}
        words |= {"He": he.capitalize(), "His": his.capitalize()}
        return {prefix + key: value for key, value in words.items()} | {("friend" if prefix else "hero"): self.name}


@dataclass(frozen=True)
class Story:
    """The facts of a story. `seed` fixes its wording, so that one story can be told again with one fact changed."""

    hero: Being
    friend: Being
    place: str
    thing: str
    food: str
    plot: str
    seed: int

    def slots(self) -> dict[str, str]:
        words = self.hero.slots("") | self.friend.slots("f")
        return words | {"place": self.place, "thing": self.thing, "a_thing": a(self.thing), "food": self.food}


PREPOSITIONS = {"beach": "on", "mountain": "on", "farm": "on", "island": "on", "river": "by", "lake": "by", "market": "at",
                "harbour": "at", "school": "at", "train station": "at", "lighthouse": "at", "old mill": "at"}  # fmt: skip

OPENINGS = [
    "Once upon a time there was {a_kind} named {hero}. {He} lived {at} the {place}.",
    "Once upon a time, {at} the {place}, there lived {a_kind} called {hero}.",
    "Once there was {a_kind} named {hero} who lived {at} the {place}.",
    "There was once {a_kind} whose name was {hero}. {His} home was {at} the {place}.",
    "Long ago, {a_kind} named {hero} lived {at} the {place}.",
    "{hero} was {a_kind} who lived {at} the {place}.",
]
MEETINGS = [
    "{His} best friend was {fa_kind} named {friend}.",
    "{He} had a good friend, {fa_kind} called {friend}.",
    "Every day {he} played with {his} friend {friend}, {fa_kind}.",
    "Nearby lived {fa_kind} named {friend}, and the two were friends.",
]
ENDINGS = [
    "From that day on, {hero} and {friend} were the best of friends.",
    "{hero} and {friend} laughed and walked home together.",
    "That night {hero} fell asleep with a smile.",
    "And {hero} never forgot that day.",
    "They were both very happy.",
    "It was the best day of the year.",
    "And so {hero} and {friend} lived happily {at} the {place}.",
]
DAYS = ["One morning", "One day", "One sunny day", "One evening", "On a rainy day", "One cold morning", "Early one day"]

# A plot: its beats in order, each told in one of several ways; a summary in one sentence; what it teaches.
PLOTS: dict[str, tuple[list[list[str]], str, str]] = {
    "lost": ([
        ["{day}, {hero} lost {his} {thing}.", "{day}, {hero} could not find {his} {thing}.",
         "{day}, {hero} saw that {his} {thing} was gone."],
        ["{He} looked under the bed and behind the door, but it was not there.",
         "{He} looked everywhere, but the {thing} was nowhere to be found.", "{He} searched the whole day and felt very sad."],
        ['"Do not be sad," said {friend}. "I will help you."', '{friend} came and said, "Let us look for it together."',
         'Then {he} asked {friend} for help. "Of course," said {friend}.'],
        ["Together they found the {thing} behind a big stone.", "At last {friend} saw the {thing} high up in a tree.",
         "Under a heap of leaves, {friend} found the {thing}."],
        ['"Thank you, {friend}!" said {hero}.', '{hero} was so glad that {he} danced. "Thank you!" {he} said.'],
    ], "{hero} lost {his} {thing}, and {friend} helped {him} to find it.", "a friend's help makes hard things easy"),
    "found": ([
        ["{day}, {hero} found {a_thing} on the ground.", "{day}, {hero} saw something shining in the grass. It was {a_thing}.",
         "{day}, {hero} was walking along when {he} found {a_thing}."],
        ['"Whose {thing} is this?" {he} asked.', '"Somebody must miss this {thing}," {he} thought.'],
        ["{He} wanted to keep it, but that did not feel right.", "It was very pretty, and {he} wished to keep it."],
        ["So {he} asked everyone, until {friend} cried, \"That is my {thing}!\"",
         "{He} took it to {friend}. \"My {thing}!\" cried {friend}. \"I lost it yesterday!\""],
        ["{friend} was so happy that {fhe} gave {hero} some {food}.", "To say thank you, {friend} shared {fhis} {food} with {hero}."],
    ], "{hero} found {a_thing} and gave it back to {friend}.", "it is good to be honest"),
    "afraid": ([
        ["But {hero} was afraid of the dark.", "There was one thing that {hero} feared: the dark."],
        ["{day}, {hero} heard a strange noise outside.", "{day}, the lamp went out, and everything was black."],
        ["{He} hid under the blanket and did not move.", "{His} heart beat fast, and {he} wanted to run away."],
        ['Then {he} heard a voice. "It is only me, {friend}," it said.', 'It was {friend}, who had come with {a_thing}. "Do not be afraid," said {friend}.'],
        ["They sat together and looked at the stars until {hero} was brave.",
         "{friend} held {hero} close, and slowly the fear went away."],
    ], "{hero} was afraid of the dark, but {friend} made {him} brave.", "with a friend you can be brave"),
    "share": ([
        ["{day}, {hero} had a big basket of {food}.", "{day}, {hero} made a lot of {food}."],
        ["{friend} came by and was very hungry.", "Then {friend} came. {fHe} had not eaten all day."],
        ['"May I have some {food}?" asked {friend}.', '"That smells so good," said {friend}.'],
        ["At first {hero} wanted to keep it all.", "{hero} thought about it for a while."],
        ['Then {he} said, "Let us share it."', 'But then {he} smiled and gave {friend} half of it.'],
        ["They ate the {food} together, and it tasted better than ever.", "They sat down and ate, and both had enough."],
    ], "{hero} shared {his} {food} with {friend}, who was hungry.", "food tastes better when you share it"),
    "storm": ([
        ["{day}, a big storm came.", "{day}, dark clouds came and it began to rain."],
        ["The wind blew hard and took the roof of {friend}'s house away.", "The water came up to the door of {friend}'s house."],
        ['"Come to my house," said {hero}. "It is warm and dry."', '{hero} ran out into the rain and called, "{friend}, come with me!"'],
        ["They drank tea and ate {food} until the storm was over.", "They sat by the fire and told each other stories."],
        ["The next day {hero} helped {friend} to repair the house.", "When the sun came back, they built the house again."],
    ], "A storm broke {friend}'s house, and {hero} took {him_f} in.", "a warm heart is better than a warm house"),
    "seed": ([
        ["{day}, {friend} gave {hero} a small seed.", "{day}, {hero} found a small seed in {his} pocket."],
        ["{He} planted it and gave it water every day.", "{He} put it in the ground and waited."],
        ["For a long time nothing happened.", "A week went by, but there was nothing to see."],
        ['"Be patient," said {friend}.', '"It needs time," said {friend}.'],
        ["Then, one day, there was a little green leaf.", "At last a small plant came out of the ground."],
        ["The plant grew and grew until it was a tall tree.", "Soon it was full of flowers, and everybody came to see it."],
    ], "{hero} planted a seed and waited until it became a plant.", "good things need time"),
    "race": ([
        ["{day}, {hero} and {friend} ran a race to the {place2}.", '{day}, {friend} said, "Let us run to the {place2}!"'],
        ["{friend} was very fast and was soon far ahead.", "{friend} laughed, because {fhe} was much faster."],
        ["But on the way {friend} fell and hurt {fhis} foot.", "Then {friend} stepped on a stone and fell."],
        ["{hero} could have won, but {he} stopped.", "{hero} saw it and did not run on."],
        ['"Take my hand," said {hero}, and they walked on together.', "{He} helped {friend} up, and they went on side by side."],
        ["They both came to the {place2} at the same time, and both had won.", "Nobody lost that race."],
    ], "{hero} and {friend} ran a race, and {hero} stopped to help when {friend} fell.", "winning is not everything"),
    "birthday": ([
        ["{day} it was {friend}'s birthday.", "It was the birthday of {friend}."],
        ["{hero} wanted to give {fhim} something nice, but {he} had no money.", "{hero} did not know what to give {fhim}."],
        ["So {he} took some wood and made {a_thing}.", "So {he} worked all night and made {a_thing}."],
        ['"It is not much," said {hero}.', '"I made it for you," said {hero}.'],
        ['"It is the best present of all!" said {friend}.', "{friend} loved the {thing} more than anything."],
        ["Then they ate cake and sang until late.", "They had {food} and cake, and everybody sang."],
    ], "{hero} made {a_thing} for {friend}'s birthday.", "a present from the heart is the best one"),
    "lostway": ([
        ["{day}, {hero} went for a walk to the {place2}.", "{day}, {hero} walked too far."],
        ["Soon {he} did not know the way home.", "When it got dark, {he} could not find the way back."],
        ["{He} sat down and began to cry.", "{He} called for help, but nobody answered."],
        ["Then {friend} came along with {a_thing}.", "After a while {he} saw a light. It was {friend}."],
        ['"I know the way," said {friend}. "Follow me."', '"Give me your hand," said {friend}. "I will bring you home."'],
        ["Soon they saw the {place} again, and {hero} was safe.", "Together they walked until they were home."],
    ], "{hero} lost {his} way, and {friend} brought {him} home.", "it is fine to ask for help"),
    "build": ([
        ["{day}, {hero} wanted to build a boat.", "{day}, {hero} had an idea: {he} would build a house in a tree."],
        ["{He} worked all day, but it fell apart.", "{He} tried again and again, but it did not hold."],
        ['"You cannot do that," said some.', "{He} was tired and wanted to give up."],
        ['"Try it with {a_thing}," said {friend}.', '"Two can do more than one," said {friend}, and picked up a hammer.'],
        ["They worked together for three days.", "So they worked side by side until the evening."],
        ["In the end it was strong and beautiful.", "And this time it held."],
    ], "{hero} built something with the help of {friend}.", "two can do more than one"),
    "learn": ([
        ["{hero} wanted to learn to swim, but {he} was not good at it.", "More than anything, {hero} wanted to sing, but {he} could not."],
        ["{day}, {he} tried again, and it went wrong.", "{day}, everybody laughed when {he} tried."],
        ['"I will never learn it," said {hero}.', "{He} went home and was sad."],
        ['"I will show you," said {friend}.', '"Nobody can do it on the first day," said {friend}. "Try every day a little."'],
        ["They practised every day {at} the {place}.", "Every morning {friend} came, and they practised together."],
        ["After some weeks {hero} could do it very well.", "And one day {he} could do it."],
    ], "{hero} practised every day with {friend} until {he} could do it.", "practice makes it possible"),
    "broken": ([
        ["{day}, {hero} played with {friend}'s {thing} and broke it.", "{day}, {friend}'s {thing} fell out of {hero}'s hands and broke."],
        ["{He} was afraid that {friend} would be angry.", "{He} wanted to hide it and say nothing."],
        ["But {he} went to {friend} and told the truth.", 'Then {he} took a deep breath. "{friend}, I broke your {thing}," {he} said.'],
        ['"Thank you for telling me," said {friend}.', "{friend} was sad for a moment, but then {fhe} smiled."],
        ["Together they repaired the {thing} with some string.", '"We can repair it," said {friend}, and so they did.'],
    ], "{hero} broke {friend}'s {thing}, told the truth, and they repaired it.", "telling the truth is always best"),
    "stranger": ([
        ["{day}, somebody new came: {fa_kind} named {friend}.", "{day}, {fa_kind} named {friend} came, and nobody knew {fhim}."],
        ["Nobody talked to {fhim}.", "{fHe} sat alone and did not say a word."],
        ["Only {hero} went over and said hello.", '"Do you want to play with me?" asked {hero}.'],
        ["{friend} showed {hero} {fhis} {thing}.", "{friend} gave {hero} some {food} and smiled."],
        ["They played with it until the sun went down.", "They talked and laughed the whole day."],
    ], "{hero} was kind to {friend}, who was new and alone.", "a kind word can make a friend"),
    "treasure": ([
        ["{day}, {hero} found an old map.", "{day}, {friend} came with an old map."],
        ['"It shows the way to a treasure!" said {friend}.', "There was a red cross on it, near the {place2}."],
        ["So {hero} and {friend} walked to the {place2}.", "They took some {food} and went on their way."],
        ["They dug a deep hole and found a box.", "Behind a big stone they found an old box."],
        ["In it was {a_thing}.", "They opened it, and there was {a_thing}."],
        ['"The best treasure is a friend," said {hero}.', "It was not gold, but they liked it very much."],
    ], "{hero} and {friend} followed a map and found {a_thing}.", "the way together is the treasure"),
}  # fmt: skip


def being(rng: random.Random, kind: str | None = None, avoid: str = "") -> Being:
    """Somebody of the kind, or of any kind, with a name that fits and is not `avoid`."""
    if kind is None:
        base = rng.choice(ANIMALS if rng.random() < 0.6 else STORY_PEOPLE)
        words = ["little", "young", "old", "kind", "clever", "small", "brave", "shy", *COLOURS[:8]]
        kind = f"{rng.choice(words)} {base}" if rng.random() < 0.35 else base
    base = kind.split()[-1]
    female = base in FEMALE_KINDS or (base not in MALE_KINDS and rng.random() < 0.5)
    names = ANIMAL_NAMES if base in ANIMALS and rng.random() < 0.6 else GIRLS if female else BOYS
    name = invented(rng).capitalize() if rng.random() < 0.08 else rng.choice(names)
    return being(rng, kind, avoid) if name == avoid else Being(name, kind, female)


def invent(rng: random.Random) -> Story:
    """A story with everything chosen at random."""
    hero = being(rng)
    food = rng.choice([*FOODS[:8], "apples", "cherries", "pears", "berries", "nuts"])
    plot = rng.choice(list(PLOTS))
    return Story(
        hero, being(rng, avoid=hero.name), rng.choice(PLACES), rng.choice(THINGS), food, plot, rng.randrange(2**30)
    )


def _slots(story: Story, rng: random.Random) -> dict[str, str]:
    other = rng.choice([place for place in PLACES if place != story.place])
    him = "her" if story.friend.female else "him"
    at = PREPOSITIONS.get(story.place, "in")
    return story.slots() | {"day": rng.choice(DAYS), "place2": other, "him_f": him, "at": at}


def invent_for_plot(rng: random.Random) -> tuple[Story, str]:
    """A story and a request that says what happens in it."""
    plot = rng.choice(list(WISHES))
    story = replace(invent(rng), plot=plot)
    wish = pick(rng, WISHES[plot], **_slots(story, rng))
    return story, pick(rng, WISH_REQUESTS, w=wish, a_kind=a(story.hero.kind), hero=story.hero.name)


def tell(story: Story, *, short: bool = False, moral: bool = False) -> str:
    """The story as text: 7 to 11 sentences, or about 3 when short."""
    rng = random.Random(story.seed)
    slots = _slots(story, rng)
    beats, summary, teaching = PLOTS[story.plot]
    opening = pick(rng, OPENINGS, **slots)
    meeting = pick(rng, MEETINGS, **slots)
    ending = pick(rng, ENDINGS, **slots)
    if short:
        told = [
            opening,
            "One day " + summary.format(**slots) if summary.startswith("{hero}") else summary.format(**slots),
        ]
        return " ".join([*told, ending])
    sentences = [opening] if story.plot == "stranger" else [opening, meeting]
    sentences += [pick(rng, beat, **slots) for beat in beats]
    text = " ".join([*sentences, ending])
    return f"{text} {'The moral is' if rng.random() < 0.5 else 'This story shows'}: {teaching}." if moral else text


def title(story: Story) -> str:
    """A title for it."""
    kind = story.hero.kind.split()[-1].capitalize()
    place = story.place.title()
    return random.Random(story.seed + 1).choice(
        [f"{story.hero.name} and the {story.thing.title()}" if story.plot in THING_PLOTS else f"The {kind}", f"The {kind} of the {place}",
         f"{story.hero.name} and {story.friend.name}", f"A Day with {story.hero.name}"]
    )  # fmt: skip


# What a request may say about the plot.
WISHES: dict[str, list[str]] = {
    "lost": ["who lost {his} {thing}", "who loses {a_thing}", "who cannot find {his} {thing}"],
    "found": ["who finds {a_thing}", "who found {a_thing}", "who is honest"],
    "afraid": ["who is afraid of the dark", "who is afraid", "who learns to be brave"],
    "share": ["who shares {his} {food}", "who learns to share", "who has a lot of {food}"],
    "storm": ["and a big storm", "in a storm", "and a storm"], "seed": ["who plants a seed", "and a small seed", "who grows a tree"],
    "race": ["who runs a race", "and a race", "who wants to win"], "birthday": ["and a birthday", "who makes a present", "and a birthday present"],
    "lostway": ["who gets lost", "who cannot find the way home", "who lost {his} way"],
    "build": ["who builds something", "who wants to build a boat", "who never gives up"],
    "learn": ["who learns something", "who wants to learn to swim", "who wants to learn to sing", "who practises every day"],
    "broken": ["who breaks {a_thing}", "who tells the truth", "who broke {a_thing}"],
    "stranger": ["who makes a new friend", "who is new and alone", "who finds a friend", "and friendship"],
    "treasure": ["who finds a treasure", "and a treasure", "who finds an old map"],
}  # fmt: skip
WISH_REQUESTS = ["Tell me a story about {a_kind} {w}.", "Write a short story about {a_kind} {w}.", "Tell me a story of {a_kind} {w}.",
                 "Write a story about {a_kind} named {hero} {w}.", "I want a story about {a_kind} {w}.", "Can you write a story about {a_kind} {w}?"]  # fmt: skip
REQUESTS_ANY = [
    "Tell me a story.", "Tell me a short story.", "Write a short story.", "Can you tell me a story?", "A story, please.",
    "Please tell me a little story.", "I would like to hear a story.", "Tell a story", "Make up a story.", "story",
    "Could you write a story for me?", "Tell me a bedtime story.", "Write me a story", "Do you know a story?",
    "I am bored. Tell me a story.", "Tell me something nice before I go to sleep.", "Give me a short story.",
    "Tell me another story.", "Write a tale.", "Once upon a time", "Invent a story for my child.",
]  # fmt: skip
REQUESTS_KIND = [
    "Tell me a story about {a_kind}.", "Write a short story about {a_kind}.", "Can you tell me a story about {a_kind}?",
    "A story about {a_kind}, please.", "I want a story with {a_kind}.", "Write a tale about {a_kind}.",
    "Please write a little story about {a_kind}.", "story about {a_kind}", "Make up a story about {a_kind}.",
    "Tell me a short story about {a_kind}.", "Tell me a bedtime story about {a_kind}.",
]  # fmt: skip
REQUESTS_NAME = [
    "Tell me a story about {a_kind} named {hero}.", "Write a short story about {hero}, {a_kind}.",
    "Tell me about {a_kind} called {hero}.", "Write a story about {a_kind} with the name {hero}.",
    "Make a story about {hero} the {kind}.", "Can you write a story about {a_kind} named {hero}?",
]  # fmt: skip
REQUESTS_PLACE = [
    "Tell me a story about {a_kind} {at} the {place}.", "Write a story about {a_kind} who lives {at} the {place}.",
    "A short story {at} the {place} with {a_kind}, please.", "Write a short story about {a_kind} and the {place}.",
]  # fmt: skip
REQUESTS_SPOT = [
    "Tell me a story that happens {at} the {place}.", "Write a story set {at} the {place}.", "A story about the {place}.",
    "Tell me a story about the {place}.",
]  # fmt: skip
REQUESTS_THING = [
    "Tell me a story about {a_kind} and {a_thing}.", "Write a short story with {a_kind} and {a_thing}.",
    "Make up a story about {a_thing} and {a_kind}.",
]  # fmt: skip
REQUESTS_PAIR = [
    "Tell me a story about {hero} and {friend}.", "Write a story about two friends, {hero} and {friend}.",
    "Can you make a story about {hero} and {friend}?", "Write a short story about {hero} and {friend}.",
]  # fmt: skip
REQUESTS_BOTH = [
    "Tell me a story about {a_kind} and {fa_kind}.", "Write a story about {a_kind} and {fa_kind}.",
    "A story about {a_kind} and {fa_kind}, please.", "Make up a story with {a_kind} and {fa_kind}.",
]  # fmt: skip
REQUESTS = [REQUESTS_ANY, REQUESTS_KIND, REQUESTS_KIND, REQUESTS_NAME, REQUESTS_NAME, REQUESTS_PLACE, REQUESTS_SPOT,
            REQUESTS_THING, REQUESTS_PAIR, REQUESTS_BOTH]  # fmt: skip
THING_PLOTS = ["lost", "found", "birthday", "broken", "treasure"]


def ask(rng: random.Random) -> tuple[Story, str, str]:
    """A story, a request that fits it, and its text."""
    story = invent(rng)
    requests = rng.choice(REQUESTS)
    if requests is REQUESTS_THING:
        story = replace(story, plot=rng.choice(THING_PLOTS))
    elif requests is REQUESTS_KIND and rng.random() < 0.1:
        story = replace(story, hero=replace(story.hero, kind=invented(rng)))
    request = pick(rng, requests, **_slots(story, rng))
    if rng.random() < 0.15:
        story, request = invent_for_plot(rng)
    roll = rng.random()
    if roll < 0.12:
        how = rng.choice((" Keep it short.", " Only three sentences.", " Make it very short.", " In three sentences."))
        return story, rough(rng, request) + how, tell(story, short=True)
    if roll < 0.18:
        how = rng.choice((" It should have a moral.", " With a moral at the end.", " What does it teach?"))
        return story, rough(rng, request) + how, tell(story, moral=True)
    return story, rough(rng, request), tell(story)


def _again(rng: random.Random, story: Story) -> Turn:
    kind = rng.choice(ANIMALS + STORY_PEOPLE)
    asks = ["Again with {k}.", "Now with {k}.", "The same story with {k}, please.", "Tell it again, but with {k}.",
            "Make it about {k}.", "Can you do it with {k} instead?", "And now with {k} instead of {o}."]  # fmt: skip
    female = kind in FEMALE_KINDS or (story.hero.female and kind not in MALE_KINDS)
    changed = replace(story, hero=replace(story.hero, kind=kind, female=female))
    return pick(rng, asks, k=a(kind), o=a(story.hero.kind)), tell(changed)


def _rename(rng: random.Random, story: Story) -> Turn:
    name = being(rng, story.hero.kind, avoid=story.friend.name).name
    asks = ["Call the {kind} {n} instead.", "Change the name of the {kind} to {n}.", "Use the name {n} instead of {o}.",
            "Tell it again, but call the {kind} {n}."]  # fmt: skip
    text = tell(replace(story, hero=replace(story.hero, name=name)))
    return pick(rng, asks, kind=story.hero.kind, n=name, o=story.hero.name), text


def _shorter(rng: random.Random, story: Story) -> Turn:
    asks = ["Make it shorter.", "Shorter, please.", "Too long. Make it shorter.", "Can you make it shorter?", "shorter",
            "Tell it in three sentences.", "Summarize the story.", "Give me a short version."]  # fmt: skip
    return rng.choice(asks), tell(story, short=True)


def question(rng: random.Random, story: Story, *, short: bool = False) -> Turn:
    """A question about the story that its text answers; short texts do not say what the friend is."""
    hero, friend = story.hero, story.friend
    at = PREPOSITIONS.get(story.place, "in")
    simple = hero.kind.split()[-1]
    answers = [
        (f"What was the name of the {simple}?", f"The {simple} was named {hero.name}."),
        (f"What was the {simple}'s name?", f"The {simple} was named {hero.name}."),
        (f"What was the name of the {hero.kind}?", f"The {hero.kind} was named {hero.name}."),
        (f"What is the {hero.kind} called?", f"The {hero.kind} is called {hero.name}."),
        ("Who is the story about?", f"It is about {hero.name}, {a(hero.kind)}."),
        (f"Who is {hero.name}?", f"{hero.name} is {a(hero.kind)} who lives {at} the {story.place}."),
        (f"Where did {hero.name} live?", f"{hero.name} lived {at} the {story.place}."),
        ("Where does the story happen?", f"It happens {at} the {story.place}."),
        ("What is the name of the friend?", f"The friend is called {friend.name}."),
        ("Give it a title.", title(story)), ("What would be a good title?", f'A good title would be "{title(story)}".'),
        ("What is the moral?", f"The moral is: {PLOTS[story.plot][2]}."),
        ("What does the story teach?", f"It teaches that {PLOTS[story.plot][2]}."),
        ("What happened in the story?", PLOTS[story.plot][1].format(**_slots(story, random.Random(story.seed)))),
    ]  # fmt: skip
    if not short:
        told = f"{friend.name} is {a(friend.kind)} and the friend of {hero.name}."
        answers += [(f"Who is {friend.name}?", told), (f"Who was {friend.name}?", told), ("Who is the friend?", told)]
    return rng.choice(answers)


def _another(rng: random.Random, _story: Story) -> Turn:
    asks = ["Another one.", "One more, please.", "Tell me another story.", "Another story!", "And another one?"]
    return rng.choice(asks), tell(invent(rng))


FOLLOW_UPS: list[Callable[[random.Random, Story], Turn]] = [_again, _rename, _shorter, _another]


def conversation(rng: random.Random) -> list[Turn]:
    """A request for a story, the story, and up to three turns that refer back to it."""
    story, request, text = ask(rng)
    turns = [(request, text)]
    while rng.random() < 0.4 and len(turns) < 4:
        short = len(turns[0][1]) < 300
        asked, answer = question(rng, story, short=short) if rng.random() < 0.35 else rng.choice(FOLLOW_UPS)(rng, story)
        turns.append((rough(rng, asked), answer))
        if answer.startswith(text[:8]) or len(answer) > 250:
            break
    return turns


def plain(rng: random.Random) -> str:
    """A story as a plain document, sometimes under its title."""
    story = invent(rng)
    text = tell(story, moral=rng.random() < 0.1)
    return f"{title(story)}\n\n{text}" if rng.random() < 0.15 else text
