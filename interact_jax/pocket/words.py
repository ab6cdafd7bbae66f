"""The facts and phrases of the pocket world: tables only, no logic.

Every answer is one word of at least two letters, so that capital letters can be seen in any reply.
The tables are small on purpose: a model of a million parameters must know all of them.
"""

from __future__ import annotations

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Austria": "Vienna",
    "Greece": "Athens",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Poland": "Warsaw",
    "Ireland": "Dublin",
    "Portugal": "Lisbon",
    "England": "London",
    "Russia": "Moscow",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Canada": "Ottawa",
    "Iran": "Tehran",
    "Turkey": "Ankara",
    "Hungary": "Budapest",
}

_OPPOSITES = (
    "hot cold|big small|up down|left right|day night|open closed|fast slow|old young|rich poor|"
    "wet dry|light dark|happy sad|loud quiet|early late|hard soft|full empty|high low|long short"
)
OPPOSITES = {
    word: other
    for pair in _OPPOSITES.split("|")
    for word, other in (pair.split(), pair.split()[::-1])
}

_CATEGORIES = {
    "animal": "dog cat horse cow sheep lion bear mouse",
    "fruit": "apple pear plum cherry lemon grape melon fig",
    "color": "red blue green yellow brown pink purple gray",
    "tool": "hammer saw drill knife rope ladder shovel axe",
    "metal": "iron gold silver copper zinc steel tin lead",
    "vehicle": "car bus train boat truck plane bike tram",
}
CATEGORIES = {kind: things.split() for kind, things in _CATEGORIES.items()}

_NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
NUMBERS = _NUMBERS.split()

# Phrasings of a request. A fact has as many phrasings as its split needs (see `world.fact`).
FACT_PHRASINGS = {
    "capital": (
        "What is the capital of {}?",
        "Name the capital of {}.",
        "Which city is the capital of {}?",
        "Capital of {}?",
    ),
    "opposite": (
        "What is the opposite of {}?",
        "Name the opposite of {}.",
        "Which word is the opposite of {}?",
        "Opposite of {}?",
    ),
    "category": (
        "What kind of thing is {}?",
        "Name the kind of thing {} is.",
        "Which kind of thing is {}?",
        "Kind of thing: {}?",
    ),
    "next": (
        "What comes after {}?",
        "Name the number after {}.",
        "Which number comes after {}?",
        "Number after {}?",
    ),
}
LIST_PHRASINGS = {
    "first": ("What is the first word of {}, {}, {}?", "First word: {}, {}, {}."),
    "second": ("What is the second word of {}, {}, {}?", "Second word: {}, {}, {}."),
    "last": ("What is the last word of {}, {}, {}?", "Last word: {}, {}, {}."),
}
PICK_PHRASINGS = ("Which is a {}: {}, {} or {}?", "Find the {}: {}, {}, {}.")
COMPARE_PHRASINGS = {
    "bigger": ("Which is bigger, {} or {}?", "Bigger number: {} or {}?"),
    "smaller": ("Which is smaller, {} or {}?", "Smaller number: {} or {}?"),
}

# What a style looks like in a reply.
OPENERS = ("Of course, ", "With pleasure, ")
EMOJIS = (" 😊", " 👍")
CLOSINGS = (" Anything else?", " Can I help with more?")

# How a user asks for a style, or against it: COMPLAINTS[style][wanted].
COMPLAINTS = {
    "capitals": {
        True: (
            "Please write it all in capital letters.",
            "Use capital letters please.",
            "I want everything in capital letters.",
        ),
        False: (
            "Please do not write in capital letters.",
            "No capital letters please.",
            "Stop shouting, use small letters.",
        ),
    },
    "exclamation": {
        True: (
            "Please add an exclamation mark.",
            "Use an exclamation mark please.",
            "I want more excitement in it.",
        ),
        False: (
            "Please leave out the exclamation mark.",
            "No exclamation mark please.",
            "Stop the excitement, use a full stop.",
        ),
    },
    "sentence": {
        True: (
            "Please write a whole sentence.",
            "Use a whole sentence please.",
            "I want more than one word.",
        ),
        False: (
            "Please write only the word.",
            "No whole sentence please.",
            "Stop the long sentence, one word will do.",
        ),
    },
    "polite": {
        True: (
            "Please be more polite.",
            "Use a polite opening please.",
            "I want you to start politely.",
        ),
        False: (
            "Please leave out the polite opening.",
            "No polite opening please.",
            "Stop being polite, start at once.",
        ),
    },
    "emoji": {
        True: (
            "Please add an emoji.",
            "Use an emoji please.",
            "I want to see an emoji.",
        ),
        False: (
            "Please leave out the emoji.",
            "No emoji please.",
            "Stop sending me an emoji.",
        ),
    },
    "question": {
        True: (
            "Please ask me what else I need.",
            "Use a question at the end please.",
            "I want you to offer more help.",
        ),
        False: (
            "Please do not ask me anything back.",
            "No question at the end please.",
            "Stop asking if I need more help.",
        ),
    },
}

CORRECTIONS = (
    "That is wrong, it is {}.",
    "No, the answer is {}.",
    "Wrong, it should be {}.",
)
PRAISE = (
    "Thank you, that is perfect.",
    "Great answer, thanks!",
    "Perfect, just what I need.",
    "Nice, I like it.",
)
CHATTER = (
    "It is raining here today.",
    "I had coffee this morning.",
    "My sister is on the phone.",
    "The shop was closed again.",
    "We are leaving for the beach soon.",
    "I slept well last night.",
)
