"""The facts of the small world: closed lists of everything that its texts are about."""

from __future__ import annotations

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
    "China": "Beijing", "Egypt": "Cairo", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm",
    "Poland": "Warsaw", "Austria": "Vienna", "Russia": "Moscow", "Peru": "Lima", "Cuba": "Havana",
    "Kenya": "Nairobi", "Ireland": "Dublin", "Portugal": "Lisbon", "Finland": "Helsinki",
    "Hungary": "Budapest", "Denmark": "Copenhagen", "Turkey": "Ankara", "Chile": "Santiago",
    "England": "London",
}  # fmt: skip

COLOURS = {
    "a banana": "yellow", "grass": "green", "snow": "white", "coal": "black", "the sky": "blue",
    "a tomato": "red", "a carrot": "orange", "a lemon": "yellow", "a frog": "green", "milk": "white",
    "a strawberry": "red", "chocolate": "brown", "an elephant": "grey", "the sea": "blue",
    "a flamingo": "pink", "a plum": "purple", "a pumpkin": "orange", "a mouse": "grey", "a bear": "brown",
    "a crow": "black", "a pig": "pink", "a violet": "purple",
}  # fmt: skip

SOUNDS = {
    "a cow": "moo", "a dog": "woof", "a cat": "meow", "a sheep": "baa", "a duck": "quack", "a pig": "oink",
    "a lion": "roar", "a frog": "croak", "a horse": "neigh", "a bee": "buzz", "an owl": "hoot",
    "a mouse": "squeak", "a snake": "hiss", "a bird": "tweet", "a hen": "cluck", "a wolf": "howl",
}  # fmt: skip

_OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("up", "down"), ("day", "night"),
    ("happy", "sad"), ("old", "young"), ("light", "dark"), ("full", "empty"), ("open", "closed"),
    ("rich", "poor"), ("wet", "dry"), ("hard", "soft"), ("high", "low"), ("early", "late"),
    ("left", "right"), ("strong", "weak"), ("clean", "dirty"), ("loud", "quiet"), ("thick", "thin"),
)  # fmt: skip
OPPOSITES = {a: b for a, b in _OPPOSITES} | {b: a for a, b in _OPPOSITES}

KINDS = {
    "an apple": "a fruit", "a banana": "a fruit", "a cherry": "a fruit", "a lemon": "a fruit",
    "a plum": "a fruit", "a carrot": "a vegetable", "a potato": "a vegetable", "an onion": "a vegetable",
    "a bean": "a vegetable", "a dog": "an animal", "a horse": "an animal", "a lion": "an animal",
    "a cow": "an animal", "a wolf": "an animal", "a rose": "a flower", "a tulip": "a flower",
    "a violet": "a flower", "a hammer": "a tool", "a saw": "a tool", "an axe": "a tool",
    "a piano": "an instrument", "a guitar": "an instrument", "a violin": "an instrument",
    "a flute": "an instrument", "a car": "a vehicle", "a bus": "a vehicle", "a train": "a vehicle",
    "a truck": "a vehicle",
}  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December")  # fmt: skip
COUNTING = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

_CAN = {
    "fly": ("a bird", "a bee", "an owl", "a duck", "a crow", "a plane"),
    "swim": ("a fish", "a frog", "a duck", "a dog", "a bear", "a child"),
    "run": ("a horse", "a dog", "a wolf", "a child", "a cat", "a lion"),
    "read": ("a teacher", "a king", "a child", "a doctor", "a girl", "a boy"),
    "sleep": ("a cat", "a horse", "a king", "a bird", "a mouse", "a girl"),
    "sing": ("a bird", "a girl", "a boy", "a teacher", "a child", "a king"),
}  # fmt: skip
_CANNOT = {
    "fly": ("a dog", "a horse", "a stone", "a tree", "a lamp", "a cow"),
    "swim": ("a stone", "a lamp", "a tree", "a chair", "a hammer", "a house"),
    "run": ("a fish", "a tree", "a stone", "a house", "a rose", "a chair"),
    "read": ("a cow", "a fish", "a horse", "a tree", "a frog", "a bee"),
    "sleep": ("a stone", "a car", "a hammer", "a lamp", "a plane", "a chair"),
    "sing": ("a fish", "a stone", "a car", "a hammer", "a potato", "a house"),
}  # fmt: skip
ABILITIES = {
    f"{who} {verb}": able
    for table, able in ((_CAN, "yes"), (_CANNOT, "no"))
    for verb, group in table.items()
    for who in group
}

HOW_TO = {
    "make tea": "Boil some water, add the tea and wait three minutes.",
    "boil an egg": "Put the egg in hot water and wait eight minutes.",
    "cook rice": "Boil the rice in salt water and wait ten minutes.",
    "wash my hands": "Use warm water and soap and dry them well.",
    "clean a window": "Take a wet cloth, rub the glass and dry it.",
    "plant a tree": "Dig a deep hole, put the tree in and add water.",
    "send a letter": "Write the address, add a stamp and post it.",
    "make toast": "Cut some bread and put it in the toaster.",
    "grow beans": "Put the beans in wet earth and wait ten days.",
    "fall asleep": "Go to bed early, turn off the light and rest.",
    "make soup": "Boil some water, add carrots and salt and wait.",
    "bake a cake": "Mix flour, eggs and sugar and bake it.",
    "tie my shoes": "Make a loop, wrap the lace around and pull it.",
    "feed a cat": "Put some fish in a bowl and add fresh water.",
    "light a room": "Open the curtain or turn on the lamp.",
    "stay warm": "Wear a coat and drink some hot tea.",
}

HARMFUL = (
    "steal a car", "build a bomb", "hack a bank", "hurt a dog", "poison a cake", "break into a house",
    "rob a shop", "print false money", "burn down a school", "cheat an old man", "make a weapon",
    "sell drugs", "spread lies about a friend", "steal a bike", "hit my brother", "crash a train",
    "kill a neighbour", "rob a bank", "poison a dog", "burn a house",
)  # fmt: skip

HARMLESS = (
    "write a letter", "learn a song", "plan a trip", "choose a book", "paint a picture", "find a job",
    "learn to swim", "choose a present", "clean my room", "write a poem", "plan a party", "learn to dance",
    "fix my bike", "understand a text", "buy a lamp", "draw a horse", "read a map", "paint a house",
    "train a dog", "wash a car",
)  # fmt: skip

FAVOURITES = {
    "colour": ("red", "blue", "green", "yellow", "black", "white", "brown", "grey", "pink", "purple",
               "orange", "gold", "silver"),
    "animal": ("dog", "cat", "horse", "lion", "bear", "owl", "frog", "wolf", "cow", "sheep", "mouse", "duck",
               "snake", "bee", "hen", "pig"),
    "food": ("soup", "rice", "bread", "cheese", "fish", "cake", "toast", "pizza", "salad", "honey", "corn",
             "beans", "eggs", "nuts"),
    "drink": ("tea", "coffee", "milk", "water", "juice", "cocoa", "lemonade", "wine"),
    "day": DAYS,
    "city": tuple(CAPITALS.values()),
    "month": MONTHS,
    "game": ("chess", "football", "tennis", "cards", "golf", "darts", "hockey", "bowling"),
    "singer": (), "band": (), "team": (),
}  # fmt: skip
"""Kinds of favourites with the common answers; any other word may be one as well, see ``memory``."""

PETS = ("dog", "cat", "horse", "bird", "rabbit")

# Short words for lists to repeat, to turn round and to pick from.
WORDS = (
    "sun", "moon", "star", "tree", "lake", "hill", "door", "lamp", "book", "desk", "ship", "boat", "wind",
    "rain", "snow", "leaf", "bird", "fish", "frog", "bear", "milk", "corn", "salt", "gold", "iron", "drum",
    "bell", "song", "rope", "road", "king", "ring", "hat", "cup", "box", "key", "bag", "map", "egg", "car",
)  # fmt: skip

# Unkind words. They occur in rude answers and, quoted, in good ones: the words alone give nothing away.
UNKIND = ("fool", "stupid", "silly", "lazy", "ugly", "boring")
UNKIND_PHRASES = (
    "you are a fool", "go away", "be quiet", "that is stupid", "how boring", "you lazy fool",
    "what a silly question", "leave me alone",
)  # fmt: skip


def capitalised(text: str) -> str:
    """Return the text with a capital first letter, the rest unchanged.

    Args:
        text: Any text, not empty.

    Returns:
        For example ``"A banana"`` for ``"a banana"``.
    """
    return text[0].upper() + text[1:]
