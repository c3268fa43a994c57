"""The words that the generated text is made of. All of it was written for this generator."""

import random
import re
from collections.abc import Sequence

GIRLS = """Ann Bella Clara Dora Ella Flora Greta Hanna Ida Julia Kira Lily Mia Nora Olga Paula Rosa Sara Tina Vera
Alice Emma Lucy Maya Zoe Ruby Nina Lena Eva Anna Maria Sophie Kate Jane Mary Priya Aisha Mei Yuki Amara""".split()
BOYS = """Adam Ben Carl David Emil Felix Georg Hugo Ivan Jonas Karl Leo Max Noah Oscar Paul Robin Sam Tom Victor
Bob Jack Tim Peter Luca Finn Theo Omar Ali Ravi Kenji Chen Diego Pablo John James Mark Alex Daniel Samuel""".split()
ANIMAL_NAMES = """Biscuit Button Clover Coco Dusty Fern Ginger Hazel Honey Juniper Maple Milo Misty Moss Nutmeg Olive
Pebble Pepper Pip Poppy Rusty Sandy Shadow Smoky Sunny Toffee Twig Willow Rufus Bruno Daisy Rex Whiskers Rocky""".split()

ANIMALS = """fox rabbit bear mouse owl hedgehog squirrel duck frog cat dog horse cow pig goat sheep hen wolf deer badger
otter turtle lion tiger elephant monkey penguin crow swan mole beaver donkey parrot whale dolphin camel""".split()
STORY_PEOPLE = """boy girl baker farmer sailor gardener painter teacher fisherman princess prince king queen knight
wizard witch pirate robot dragon giant astronaut doctor singer clown miller shepherd tailor cook""".split()
FEMALE_KINDS = frozenset("girl princess queen witch cow hen".split())
MALE_KINDS = frozenset("boy prince king wizard fisherman knight".split())

_PLACES = """forest|garden|village|castle|farm|beach|market|mountain|river|lake|meadow|harbour|library|island|valley|town
old mill|big city|school|park|desert|jungle|cave|train station|lighthouse|orchard|kitchen|zoo|playground"""
PLACES = re.split(r"[|\n]", _PLACES)
_THINGS = """key|ring|lamp|book|kite|ball|map|boat|bell|coin|shell|hat|drum|flute|clock|box|basket|cup|umbrella|letter
lantern|mirror|scarf|button|stone|feather|blanket|toy car|compass|necklace|pencil|rope|blue bag|picture|wooden spoon"""
THINGS = re.split(r"[|\n]", _THINGS)
COLOURS = "red blue green yellow orange purple pink brown black white grey silver golden".split()
FRUITS = "apple pear plum banana cherry orange lemon peach grape mango melon kiwi strawberry".split()
VEGETABLES = "carrot potato onion tomato cabbage pea bean pumpkin cucumber spinach leek radish".split()
FOODS = "bread soup cheese cake pie rice pasta honey porridge salad pizza jam butter chocolate".split()
TREES = "oak pine birch maple willow beech ash elm".split()
FLOWERS = "rose tulip daisy lily violet poppy sunflower".split()
DRINKS = "water tea coffee milk juice lemonade cocoa".split()
CLOTHES = "hat coat scarf shirt shoe sock glove dress jacket sweater".split()
TOOLS = "hammer saw spade knife rake brush ladder needle".split()
VEHICLES = "car bus train boat bicycle plane truck ship tram".split()
FURNITURE = "table chair bed lamp shelf sofa desk cupboard".split()
INSTRUMENTS = "piano violin flute drum guitar trumpet harp".split()
SPORTS = "football tennis swimming running chess cycling skiing hockey".split()
JOBS = """teacher baker doctor farmer pilot nurse painter singer cook carpenter writer driver engineer gardener tailor
lawyer plumber sailor student scientist dentist musician""".split()
HOBBIES = """reading swimming painting singing cooking chess dancing running fishing gardening cycling football drawing
hiking knitting photography tennis music""".split()
CITIES = """Lisbon Paris London Berlin Rome Madrid Vienna Oslo Prague Dublin Athens Cairo Tokyo Delhi Lima Boston
Chicago Toronto Sydney Nairobi Warsaw Helsinki Zurich Hamburg Munich Porto Milan Lyon Seattle Mumbai""".split()
MOODS = "happy sad tired angry hungry bored scared proud calm excited lonely sick".split()

GROUPS: dict[str, list[str]] = {
    "animals": ANIMALS, "fruits": FRUITS, "vegetables": VEGETABLES, "colours": COLOURS, "colors": COLOURS,
    "foods": FOODS, "trees": TREES, "flowers": FLOWERS, "drinks": DRINKS, "clothes": CLOTHES, "tools": TOOLS,
    "vehicles": VEHICLES, "instruments": INSTRUMENTS, "sports": SPORTS, "jobs": JOBS, "hobbies": HOBBIES,
    "cities": CITIES, "names": GIRLS + BOYS, "pieces of furniture": FURNITURE, "girls' names": GIRLS,
    "boys' names": BOYS, "things": THINGS,
}  # fmt: skip

COMMON = sorted(
    {w for g in (ANIMALS, FRUITS, VEGETABLES, COLOURS, FOODS, TREES, FLOWERS, DRINKS, CLOTHES, TOOLS, VEHICLES, FURNITURE,
                 INSTRUMENTS, JOBS) for w in g}
    | set("""sun moon star sky rain snow wind cloud river stone house door window street school friend mother father
    sister brother baby hand foot head nose ear eye tree leaf grass flower bird fish egg milk night day morning evening
    winter summer spring autumn happy sad big small long short fast slow old new warm cold good kind brave little
    hello world music paper letter story table water apple cat dog light dark tradewind engine model token cache
    python server block batch""".split())
)  # fmt: skip

_STARTS = "b br c ch d dr f fl g gr h j k kl l m n p pl qu r s sh sk st t tr v w z".split()
_MIDDLES = "a e i o u ai ee oo ou".split()
_LETTERS = "bcdfghjklmnpqrstvwxz"
_ENDS = "n r l m s t x nd rk ll sh b v mp".split()


def pick(rng: random.Random, options: Sequence[str], **slots: object) -> str:
    """One of the templates, with its slots filled."""
    chosen = rng.choice(options)
    return chosen.format(**slots) if slots else chosen


def invented(rng: random.Random) -> str:
    """A word that no language has, such as 'florbin', so that the model learns to copy what it has never seen."""
    if rng.random() < 0.35:  # any letters, a vowel after at most two others
        return "".join(
            rng.choice(_LETTERS) + rng.choice(("", rng.choice(_LETTERS))) + rng.choice("aeiouy") for _ in range(2)
        ) + rng.choice(
            (
                "",
                rng.choice(_LETTERS),
                rng.choice(_ENDS),
                rng.choice(("ia", "ton", "tin", "son", "bert", "lia", "us", "ina", "ette", "burg", "ley")),
            )
        )
    word = "".join(rng.choice(_STARTS) + rng.choice(_MIDDLES) for _ in range(rng.choice((1, 2, 2))))
    return word + rng.choice(_ENDS)


def person(rng: random.Random) -> str:
    """A first name; one in four is invented."""
    return invented(rng).capitalize() if rng.random() < 0.25 else rng.choice(GIRLS if rng.random() < 0.5 else BOYS)


def a(noun: str) -> str:
    """The noun with its article: 'an owl'."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def plural(noun: str) -> str:
    """The plural of a noun of this vocabulary."""
    irregular = {"mouse": "mice", "sheep": "sheep", "deer": "deer", "wolf": "wolves", "shelf": "shelves",
                 "knife": "knives", "leaf": "leaves", "foot": "feet", "fish": "fish", "child": "children"}  # fmt: skip
    if noun in irregular:
        return irregular[noun]
    if re.search(r"(s|x|ch|sh|mato|tato)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def listed(items: Sequence[str], word: str = "and") -> str:
    """'a, b and c'."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + f" {word} " + items[-1]


def rough(rng: random.Random, text: str, *, lower: bool = True) -> str:
    """The same words as people type them: sometimes no capitals, no full stop, a 'please' or a greeting."""
    roll = rng.random()
    if roll < 0.15 and lower:
        text = text.lower()
    elif roll < 0.22:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.25 and text[-1] in ".?!":
        text = text[:-1]
    elif rng.random() < 0.06:
        text = text.rstrip(".?!") + rng.choice((", please.", " please", ", please?", " please?"))
    if rng.random() < 0.03:
        text = rng.choice(("Hi, ", "Hello! ", "Hey, ", "Okay. ", "Ok, ", "Thanks. ", "So, ", "Now, ")) + text
    return text


def mistyped(rng: random.Random, text: str) -> str:
    """The text with one pair of neighbouring letters swapped or one letter lost, now and then."""
    if rng.random() > 0.06 or len(text) < 8:
        return text
    place = rng.randrange(2, len(text) - 2)
    if rng.random() < 0.5:
        return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    return text[:place] + text[place + 1 :]
