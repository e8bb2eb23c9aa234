"""What people may write, and the scene each caption asks for.

Where no background is named it is white, or black behind a white shape.
"""

from __future__ import annotations

import numpy as np

from training.image.shapes import COMBINATIONS, SHAPES, Scene

COLOUR_WORDS = {
    "gray": ("gray", "grey"),
    "purple": ("purple", "purple", "violet"),
    "cyan": ("cyan", "cyan", "turquoise"),
}
SIZE_WORDS = {"small": ("small", "small", "tiny", "little"), "large": ("big", "large", "big", "large", "huge")}
PLACE_PHRASES = {
    "centre": ("in the centre", "in the center", "in the middle", "centred", "centered"),
    "left": ("on the left", "at the left", "to the left", "left", "on the left side", "in the left half"),
    "right": ("on the right", "at the right", "to the right", "right", "on the right side", "in the right half"),
    "top": ("at the top", "on the top", "near the top", "top", "in the upper half", "at the top of the picture"),
    "bottom": ("at the bottom", "on the bottom", "near the bottom", "bottom", "in the lower half"),
    "top left": ("in the top left corner", "in the upper left corner", "at the top left", "top left"),
    "top right": ("in the top right corner", "in the upper right corner", "at the top right", "top right"),
    "bottom left": ("in the bottom left corner", "in the lower left corner", "at the bottom left", "bottom left"),
    "bottom right": ("in the bottom right corner", "in the lower right corner", "at the bottom right", "bottom right"),
}
OBJECTS = ("{size} {colour} {shape}",) * 7 + (
    "{colour} {size} {shape}",
    "{size} {shape} in {colour}",
    "{size} {shape} that is {colour}",
    "{size} {colour} coloured {shape}",
    "{size} {adjective} {colour} {shape}",
    "{size} {colour} {adjective} {shape}",
)
ADJECTIVES = ("simple", "flat", "plain", "bright", "nice", "beautiful", "cute", "perfect", "solid", "single", "clean")
BACKGROUNDS = ("on a {colour} background",) * 5 + (
    "on {colour}",
    "on a {colour} canvas",
    "on {colour} paper",
    "on a plain {colour} background",
    "on a solid {colour} background",
    "against a {colour} background",
    "in front of a {colour} background",
    "over a {colour} background",
    "with a {colour} background",
    ", {colour} background",
    ", background {colour}",
)
ORDERS = ("{object} {background}, {place}", "{object} {background} {place}", "{object} {place} {background}") * 2 + (
    "{place}, {object} {background}",
    "{object}, {place}, {background}",
)
BACKGROUND_FIRST = ("a {colour} background with {object} {place}", "on a {colour} background, {object} {place}")
BEFORE = (
    "draw", "please draw", "please paint", "paint", "can you draw", "could you make", "make", "create", "generate",
    "show me", "i want", "i would like", "a picture of", "an image of", "a drawing of", "an illustration of",
    "an illustration showing", "a picture showing", "a photo of", "a painting of", "please make an image of",
    "this is", "there is", "hello, please draw me", "a simple picture of", "a very simple drawing of", "an icon of",
)  # fmt: skip
AFTER = (
    "please", "simple", "flat", "simple, flat", "simple, flat, centred", "flat style", "minimal", "nothing else",
    "digital art", "vector art", "high quality", "very detailed", "clean lines", "sharp edges", "no text", "thank you",
    "for a test", "as an icon", "for my friend", "geometric", "minimalist style", "best quality, 4k", "in one colour",
)  # fmt: skip
NOWHERE = tuple(words for words in AFTER if "centred" not in words)
STRANGE = (
    "morning", "kitchen", "starting", "reddish", "topic", "greenhouse", "winter", "because", "squared", "bigger",
    "tests", "letter", "music", "rightly", "wonderful", "magic", "computer", "blackboard", "for", "house",
    "bluebird", "weather", "quickly", "almost", "seven", "garden", "orangery", "pinkish", "leftover", "upon", "it",
)  # fmt: skip
"""Words that are in no vocabulary, some beginning like words that are, so that stray words mean nothing."""


def _held_out() -> frozenset[tuple[str, str, str]]:
    """One combination in four of those on white, one in eight of each other sort. They are in no training caption."""
    sorts: dict[str, list[tuple[str, str, str]]] = {}
    for combination in COMBINATIONS:
        foreground, _, background = combination
        if background == "white":
            sort = "on white"
        elif foreground in ("white", "black"):
            sort = "swapped"
        else:
            sort = "other"
        sorts.setdefault(sort, []).append(combination)
    rng = np.random.default_rng(2026)
    return frozenset(
        found[i]
        for sort, found in sorts.items()
        for i in rng.permutation(len(found))[: round(len(found) / (4 if sort == "on white" else 8))]
    )


HELD_OUT = _held_out()


def implied_background(foreground: str) -> str:
    return "black" if foreground == "white" else "white"


def is_swapped(scene: Scene) -> bool:
    """What is usually the background's colour is the shape's, before a colour."""
    return scene.foreground in ("white", "black") and scene.background not in ("white", "black", "gray", "brown")


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def colour_word(rng: np.random.Generator, colour: str) -> str:
    return pick(rng, COLOUR_WORDS.get(colour, (colour,)))


def write(rng: np.random.Generator, scene: Scene, *, name_background: bool = True) -> str:
    """A caption of `scene` without a word too many."""
    adjective = pick(rng, ADJECTIVES)
    thing = pick(rng, OBJECTS).format(
        size=pick(rng, SIZE_WORDS[scene.size]) if scene.size in SIZE_WORDS else "",
        colour=colour_word(rng, scene.foreground),
        shape=scene.shape,
        adjective=adjective,
    )
    thing = f"{pick(rng, ('a', 'a', 'a', 'a', 'one', 'the', ''))} {thing}"
    place = pick(rng, PLACE_PHRASES[scene.place]) if scene.place else ""
    colour = colour_word(rng, scene.background)
    if name_background and rng.random() < 0.15:
        text = pick(rng, BACKGROUND_FIRST).format(colour=colour, object=thing, place=place)
    else:
        background = pick(rng, BACKGROUNDS).format(colour=colour) if name_background else ""
        text = pick(rng, ORDERS).format(object=thing, background=background, place=place)
    return tidy(text)


def wrap(rng: np.random.Generator, caption: str, scene: Scene) -> str:
    """The caption with a few words around it that change nothing."""
    after = AFTER if scene.place in ("", "centre") else NOWHERE
    where = rng.integers(3)
    if where != 0:
        caption = f"{pick(rng, BEFORE)} {caption}"
    if where != 1:
        caption = f"{caption}, {pick(rng, after)}"
    return caption


def disturb(rng: np.random.Generator, caption: str) -> str:
    """The caption with one to three unknown words before or after it."""
    for _ in range(int(rng.integers(1, 4))):
        word = pick(rng, STRANGE)
        if rng.random() < 0.5:
            word = "".join(chr(97 + int(c)) for c in rng.integers(0, 26, int(rng.integers(2, 8))))
        caption = f"{word} {caption}" if rng.random() < 0.5 else f"{caption} {word}"
    return caption


def tidy(text: str) -> str:
    """One space between words, none before a comma, no comma at either end, "an" before "orange"."""
    words = " ".join(text.split()).replace(" ,", ",").replace("a orange", "an orange")
    while ",," in words:
        words = words.replace(",,", ",")
    return words.strip(" ,")


def training_pair(rng: np.random.Generator) -> tuple[str, Scene]:
    """A caption and its scene, never of a held-out combination."""
    while True:
        combination = COMBINATIONS[int(rng.integers(len(COMBINATIONS)))]
        sort = rng.random()
        name_background = True
        if sort < 0.22:
            foreground = combination[0]
            combination = (foreground, combination[1], implied_background(foreground))
            name_background = sort < 0.06
        elif sort < 0.45:
            foreground = pick(rng, ("white", "black"))
            combination = (foreground, combination[1], pick(rng, COLOUR_NAMES[:8]))
        if combination not in HELD_OUT:
            break
    size = pick(rng, ("", "", "", "small", "large"))
    place = pick(rng, ("", "", *PLACE_PHRASES)) if rng.random() < 0.5 else ""
    scene = Scene(combination[1], combination[0], combination[2], size, place)
    caption = write(rng, scene, name_background=name_background)
    if rng.random() < 0.45:
        caption = wrap(rng, caption, scene)
    if rng.random() < 0.2:
        caption = disturb(rng, caption)
    if rng.random() < 0.2:
        caption += "."
    return caption, scene


COLOUR_NAMES = tuple(dict.fromkeys(foreground for foreground, _, _ in COMBINATIONS))


def vocabulary() -> list[str]:
    """Every word that gets a token of its own."""
    texts = [
        *COLOUR_NAMES, "gray", "grey", "brown", "violet", "turquoise", *SHAPES, *ADJECTIVES, *BEFORE, *AFTER,
        *(word for words in SIZE_WORDS.values() for word in words),
        *(phrase for phrases in PLACE_PHRASES.values() for phrase in phrases),
        *(text.format(size="", colour="", shape="", adjective="") for text in OBJECTS),
        *(text.format(colour="", object="", place="") for text in (*BACKGROUNDS, *BACKGROUND_FIRST)),
        "a", "an", "the", "one",
    ]  # fmt: skip
    words = {word.strip(",.") for text in texts for word in text.split()}
    return sorted(word for word in words if word.isalpha())
