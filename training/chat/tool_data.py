"""Tools made up by code: names, schemas, questions that fit them, and results."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from training.chat import words
from training.chat.facts import facts

TOPICS = (
    "weather", "forecast", "temperature", "humidity", "time", "sunrise", "population", "distance", "news", "traffic",
    "tide",
    "pollen", "price", "stock", "exchange rate", "recipe", "horoscope", "lyrics", "definition", "synonym", "menu",
    "address",
    "phone number", "postcode", "timetable", "departures", "arrivals", "delays", "flights", "hotels", "restaurants",
    "museums",
    "events", "concerts", "movies", "reviews", "rating", "score", "ranking", "biography", "birthday", "age", "height",
    "salary", "invoice", "order", "shipment", "parcel", "balance", "account", "contract", "ticket", "booking",
    "appointment", "calendar", "reminder", "note", "contact", "email", "translation", "pronunciation", "holiday",
    "currency", "interest rate", "tax", "budget", "calories", "ingredients", "nutrition", "vitamins", "opening hours",
    "wait time",
    "parking", "fuel price", "air quality", "wind", "snow depth", "water level", "earthquakes", "moon phase", "flag",
    "capital", "mayor", "anthem", "customer", "supplier", "inventory", "warehouse", "sensor", "light", "door",
    "thermostat",
    "playlist", "song", "album", "artist", "podcast", "book", "author", "chapter", "course", "grade", "exam",
    "homework",
)  # fmt: skip

CITIES = (
    "Berlin", "Paris", "London", "Madrid", "Rome", "Vienna", "Prague", "Warsaw", "Oslo", "Stockholm", "Helsinki",
    "Copenhagen",
    "Lisbon", "Porto", "Athens", "Dublin", "Brussels", "Amsterdam", "Hamburg", "Munich", "Köln", "Frankfurt", "Milan",
    "Naples",
    "Turin", "Lyon", "Nice", "Bordeaux", "Geneva", "Basel", "Graz", "Linz", "Salzburg", "Budapest", "Bucharest",
    "Sofia",
    "Belgrade", "Zagreb", "Istanbul", "Ankara", "Cairo", "Tunis", "Lagos", "Accra", "Nairobi", "Cape Town", "Tokyo",
    "Osaka",
    "Kyoto", "Seoul", "Beijing", "Shanghai", "Hong Kong", "Singapore", "Bangkok", "Hanoi", "Manila", "Jakarta",
    "Delhi", "Mumbai",
    "Karachi", "Tehran", "Dubai", "Sydney", "Melbourne", "Perth", "Auckland", "New York", "Boston", "Chicago",
    "Denver", "Seattle",
    "San Francisco", "Los Angeles", "Houston", "Dallas", "Miami", "Toronto", "Montréal", "Vancouver", "Lima", "Bogotá",
    "Quito",
    "Santiago", "Buenos Aires", "São Paulo", "Rio de Janeiro", "Havana", "Málaga", "Göteborg", "Århus", "Düsseldorf",
    "Nürnberg",
)  # fmt: skip

FIRST_NAMES_OF_PLACES = ("New", "San", "Bad", "Port", "St.", "Lake", "North", "El", "Fort")
PLACE_WORDS = (
    "city",
    "location",
    "place",
    "town",
    "city_name",
    "where",
    "region",
    "area",
    "destination",
    "municipality",
)
NAME_WORDS = ("name", "query", "q", "id", "key", "subject", "item", "topic", "term", "text", "input", "title", "value",
    "keyword",
              "person", "product", "symbol", "word", "customer", "user", "code", "target", "object",
              "search")  # fmt: skip
WHEN_WORDS = ("date", "day", "when", "period", "time")
WHENS = (
    "today",
    "tomorrow",
    "on Monday",
    "on Tuesday",
    "on Friday",
    "tonight",
    "this weekend",
    "next week",
    "on Sunday",
    "in May",
)
UNIT_WORDS = ("unit", "units", "scale", "format")
UNITS = ("celsius", "fahrenheit", "kelvin", "metric", "imperial")

NAME_STYLES = (
    "get_{}", "get_{}", "{}_lookup", "fetch_{}", "lookup_{}", "{}", "get_current_{}", "find_{}", "{}_tool", "query_{}",
    "show_{}",
    "{}_info", "check_{}", "read_{}", "{}-get", "search_{}", "{}_api", "my_{}", "get_{}_for", "{}_by_name", "load_{}",
    "{}Service",
    "local_{}", "ask_{}", "{}_now", "v2_{}", "do_{}", "{}_search", "list_{}", "{}_request",
)  # fmt: skip

DESCRIPTIONS = (
    "Get the {t} for a {p}.", "Returns the {t} of a {p}.", "Looks up the {t}.", "{T} for a given {p}.", "",
    "Current {t}",
    "Use this to find the {t} of any {p}.", "Gives the {t} by {p}", "Tells the {t}.", "Fetch {t} information",
    "The {t} of a {p}.",
    "Call this for questions about {t}.", "Provides {t} data for the {p}", "Query the {t} service by {p}.", "{T}.",
)  # fmt: skip

PLACE_FRAMES = (
    "what is the {t} in {v}", "{t} in {v}", "tell me the {t} in {v}", "how is the {t} in {v}", "show the {t} in {v}",
    "what's the {t} like in {v}", "give me the {t} for {v}", "look up the {t} in {v}", "check the {t} in {v}",
    "{v} {t}",
    "i need the {t} in {v}", "i am in {v} what is the {t}", "do you know the {t} in {v}",
    "i travel to {v} how is the {t} there",
    "could you tell me the {t} for {v}", "which {t} does {v} have", "the {t} of {v}", "find the {t} near {v}",
    "{t} {v}",
    "what about the {t} in {v}", "what {t} is it in {v}", "please get the {t} for {v}", "is the {t} good in {v}",
    "{v}: {t}?",
)  # fmt: skip

NAME_FRAMES = (
    "what is the {t} of {v}", "{t} of {v}", "tell me the {t} of {v}", "show me the {t} for {v}", "find the {t} of {v}",
    "look up the {t} of {v}", "give me the {t} for {v}", "i need the {t} of {v}", "check the {t} for {v}",
    "{t} for {v}",
    "do you know the {t} of {v}", "could you find the {t} for {v}", "{v}: {t}?", "get {t} {v}",
    "please fetch the {t} of {v}",
    "search the {t} for {v}", "which {t} has {v}", "what {t} does {v} have", "i want the {t} about {v}",
    "open the {t} of {v}",
)  # fmt: skip

WEATHER_FRAMES = (
    "is it raining in {v}", "how warm is it in {v}", "do i need an umbrella in {v}", "will it rain in {v}",
    "is it cold in {v}",
    "how is the sky over {v}", "does the sun shine in {v}", "how hot is it in {v}", "will it snow in {v}",
    "is it windy in {v}",
    "should i take a coat to {v}",
)  # fmt: skip

SPECIAL = (
    # (stems of the name, parameter names, frames with {a} and {b}, kind of a and b)
    (("translate", "translate_text", "translator"), ("text", "language"),
     ("translate {a} into {b}", "translate {a} to {b}", "please translate {a} to {b}", "say {a} in {b}"), "phrase",
     "language"),
    (("search", "web_search", "search_web", "google"), ("query", ""),
     ("search for {a}", "search the web for {a}", "find something about {a}", "please search {a}",
     "look for {a} on the web"), "phrase", ""),
    (("calculate", "calculator", "compute"), ("expression", ""),
     ("what is {a}", "calculate {a}", "compute {a} please", "how much is {a}"), "sum", ""),
    (("play_song", "play_music", "music_player"), ("song", ""),
     ("play {a}", "please play {a}", "i want to hear {a}", "put on {a}"), "phrase", ""),
    (("send_message", "send_sms", "message_send"), ("recipient", "text"),
     ("send {b} to {a}", "write {a} the message {b}", "tell {a} {b}", "message {a}: {b}"), "name", "phrase"),
    (("create_note", "add_note", "save_note"), ("text", ""),
     ("note {a}", "save the note {a}", "write down {a}", "please note: {a}", "make a note: {a}"), "phrase", ""),
    (("set_light", "light_switch", "switch_light"), ("room", "state"),
     ("switch the light in the {a} {b}", "light {b} in the {a}", "turn {b} the light in the {a}"), "room", "onoff"),
    (("draw_image", "generate_image", "make_picture", "paint_picture"), ("prompt", ""),
     ("draw {a}", "paint {a}", "make a picture of {a}", "generate an image of {a}", "i want a picture of {a}"),
     "thing", ""),
)  # fmt: skip

SPECIAL_NAMES = frozenset(name for names, *_ in SPECIAL for name in names)

TRAILING = ("now", "right now", "soon", "at the moment", "then", "these days", "there", "again", "for me", "please",
    "today", "tomorrow",
            "exactly", "nowadays", "this time", "by the way", "thanks", "if you can", "later", "next")  # fmt: skip

OPENINGS = (
    "what is the", "what's the", "tell me the", "show me", "how is the", "when is the", "where is the", "where's a",
    "which", "who is the",
    "i need the", "i'd like the", "is there a", "are there", "could you check the", "do you have the", "give me",
    "look up the",
    "how many", "find me a", "what sort of", "what kind of", "how much is the", "i want to know the", "any", "the",
    "please, the", "",
    "i wonder about the", "my friend asks for the", "can i see the", "let me see the", "how's the", "which is the",
    "what are the",
)  # fmt: skip

ADJECTIVES = [
    "red",
    "blue",
    "green",
    "small",
    "big",
    "old",
    "new",
    "happy",
    "quiet",
    "dark",
    "bright",
    "cold",
    "warm",
    "round",
    "lazy",
    "brave",
    "silver",
    "tiny",
    "golden",
    "wild",
]
NOUNS = ("fox", "house", "river", "castle", "dragon", "boat", "cloud", "garden", "teapot", "robot", "bridge",
    "mountain", "cat", "lamp",
         "forest", "train", "clock", "piano", "horse", "island", "book", "star", "window", "mouse")  # fmt: skip
ROOMS = ("kitchen", "bathroom", "garage", "hall", "bedroom", "cellar", "office", "garden")
TONGUES = (
    "German",
    "French",
    "Spanish",
    "Italian",
    "Dutch",
    "Polish",
    "Greek",
    "Latin",
    "Turkish",
    "Korean",
    "Czech",
    "Danish",
)
VERBS = [
    "buy",
    "sell",
    "meet",
    "call",
    "clean",
    "bring",
    "find",
    "see",
    "take",
    "send",
    "read",
    "write",
    "open",
    "close",
    "fix",
    "paint",
    "visit",
    "leave",
    "keep",
    "show",
]

SKIES = (
    "sunny",
    "rainy",
    "cloudy",
    "clear",
    "foggy",
    "snowy",
    "windy",
    "stormy",
    "overcast",
    "partly cloudy",
    "light rain",
)
RESULT_KEYS = ("temperature", "sky", "value", "result", "status", "unit", "name", "total", "price", "time", "note",
    "level", "date",
               "count", "humidity", "wind", "condition", "answer", "state", "text", "summary", "location")  # fmt: skip

_CONSONANTS = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "br",
    "dr",
    "gr",
    "kr",
    "st",
    "sk",
    "tr",
    "pl",
    "ch",
    "sh",
    "th",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ä", "ö", "ü", "é", "á", "ó", "ei", "ou", "ia"]


WEATHER_STEMS = (
    "weather",
    "rain",
    "cold",
    "warm",
    "hot",
    "temperature",
    "forecast",
    "snow",
    "wind",
    "outside",
    "umbrella",
)


@dataclass(frozen=True)
class Task:
    """A tool, a question that fits it, and the call that answers the question."""

    tool: dict[str, Any]
    question: str
    call: dict[str, Any]
    topic: str

    @property
    def name(self) -> str:
        return str(self.call["name"])

    def may_fit(self, question: str) -> bool:
        """Whether some other question might be one for this tool too; such pairs are left out of the data."""
        asked = question.lower()
        stems = [stem for stem in self.topic.replace("_", " ").split() if len(stem) > 2]
        if self.topic in ("weather", "forecast", "temperature"):
            stems += WEATHER_STEMS
        if self.topic in ("calculate", "calculator", "compute"):
            return any(sign.isdigit() for sign in asked)
        if self.topic.startswith(("draw", "generate", "make", "paint")):
            stems += ["draw", "paint", "picture", "image"]
        if self.topic.startswith(("create", "add", "save", "send")):
            stems += ["write", "note", "tell", "email", "send"]
        if "translat" in self.topic:
            stems += ["translat", "say", "mean"]
        return any(stem in asked for stem in stems)


ACCENTED = "äöüßàáâãåæçèéêëìíîïñòóôõøùúûýăąćčďđęěğıłńňőřśşšťůűžÄÖÜÅÆÇÉÈÎÓØÚŁŚŞŠŽĐ"


@cache
def _known_words() -> tuple[str, ...]:
    """Every word of the facts' answers and questions: pieces that any name may be made of."""
    text = " ".join(f"{fact.answer} {' '.join(fact.questions)} {' '.join(fact.doings)}" for fact in facts())
    return tuple(sorted(set(re.findall(r"[A-Za-z]{2,}", text)) | set(words.THINGS_OF_LIFE) | set(words.FILLERS)))


def any_word(rng: random.Random) -> str:
    """A word that nothing can be known about: copying it is all that helps."""
    roll = rng.random()
    if roll < 0.35:
        return rng.choice(_known_words()).lower()
    if roll < 0.7:
        return made_up_word(rng)
    if roll < 0.9:  # parts of words, so that all kinds of tokens meet
        parts = []
        for _ in range(rng.choice((1, 2, 2, 3))):
            word = rng.choice(_known_words()).lower()
            at = rng.randrange(len(word))
            parts.append(word[at : at + rng.choice((2, 3, 4, 5))])
        return "".join(parts)
    letters = [rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randrange(3, 10))]
    if rng.random() < 0.7:
        letters[rng.randrange(len(letters))] = rng.choice(ACCENTED)
    return "".join(letters)


def made_up_word(rng: random.Random) -> str:
    word = "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2, 2, 3, 3))))
    return word + rng.choice(("", "", "n", "r", "s", "l", "rg", "ck", "lt"))


def place(rng: random.Random) -> str:
    if rng.random() < 0.25:
        return rng.choice(CITIES)
    name = any_word(rng).capitalize()
    roll = rng.random()
    if roll < 0.12:
        return f"{rng.choice((*FIRST_NAMES_OF_PLACES, any_word(rng).capitalize()))} {name}"
    if roll < 0.18:
        return f"{name}-{made_up_word(rng).capitalize()}"
    if roll < 0.24:
        return f"{name} {any_word(rng).capitalize()}"
    if roll < 0.27:
        return f"{name} {any_word(rng).capitalize()} {any_word(rng).capitalize()}"
    return name if roll < 0.95 else name.lower()


def thing_name(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.35:
        return any_word(rng).capitalize()
    if roll < 0.5:
        return f"{any_word(rng).capitalize()} {any_word(rng).capitalize()}"
    if roll < 0.6:
        return "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.choice((3, 4))))
    if roll < 0.7:
        return f"{rng.choice('ABCDEKX')}{rng.randrange(10, 9999)}"
    if roll < 0.8:
        return str(rng.randrange(100, 99999))
    if roll < 0.9:
        return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    return any_word(rng)


def phrase(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.3:
        return f"{rng.choice(VERBS)} the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    if roll < 0.5:
        return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}s"
    if roll < 0.75:
        return " ".join(any_word(rng) for _ in range(rng.choice((1, 2, 3))))
    return f"the {rng.choice(NOUNS)} is {rng.choice(ADJECTIVES)}"


def _value(kind: str, rng: random.Random) -> str:
    match kind:
        case "phrase":
            return phrase(rng)
        case "language":
            return rng.choice(TONGUES)
        case "sum":
            numbers = [str(rng.randrange(1, 500)) for _ in range(rng.choice((2, 2, 3)))]
            return f" {rng.choice('+-*/')} ".join(numbers) if rng.random() < 0.7 else rng.choice("+-*/").join(numbers)
        case "name":
            return made_up_word(rng).capitalize()
        case "room":
            return rng.choice(ROOMS) if rng.random() < 0.5 else made_up_word(rng)
        case "onoff":
            return rng.choice(("on", "off"))
        case _:
            return f"a {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"


def task(rng: random.Random, *, topics: tuple[str, ...] = TOPICS, styles: tuple[str, ...] = NAME_STYLES) -> Task:
    """A tool of a made-up service, with one or two parameters."""
    if rng.random() < 0.18:
        return _special(rng)
    topic = rng.choice(topics) if rng.random() < 0.4 else any_word(rng)
    if rng.random() < 0.16:
        topic = "weather"
    elif rng.random() < 0.15:
        topic = f"{topic} {any_word(rng)}"
    return about(rng, topic, rng.choice(styles))


def about(rng: random.Random, topic: str, style: str) -> Task:
    """A tool for `topic` whose name has this style."""
    stem = topic.replace(" ", "_")
    name = style.format(stem.capitalize() if rng.random() < 0.05 else stem)
    if rng.random() < (0.65 if topic == "weather" else 0.35):  # a word that the question does not have
        name = f"{name}_{any_word(rng)}" if rng.random() < 0.6 else f"{any_word(rng)}_{name}"
    placed = topic in ("weather", "forecast", "temperature") or rng.random() < 0.5
    first = rng.choice(PLACE_WORDS if placed else NAME_WORDS) if rng.random() < 0.7 else any_word(rng)
    value = place(rng) if placed else thing_name(rng)
    frames: tuple[str, ...] = PLACE_FRAMES if placed else NAME_FRAMES
    if topic in ("weather", "forecast", "temperature") and rng.random() < 0.35:
        frames = WEATHER_FRAMES
    arguments = {first: value}
    question = rng.choice(frames).format(t=topic, v=value)
    properties = {first: _property(rng, first)}
    roll = rng.random()
    if roll < 0.16:
        when, word = rng.choice(WHENS), rng.choice(WHEN_WORDS)
        question = f"{question} {when}"
        arguments[word] = when.removeprefix("on ").removeprefix("in ")
        properties[word] = _property(rng, word)
    elif roll < 0.28:
        unit, word = rng.choice(UNITS), rng.choice(UNIT_WORDS)
        question = f"{question} in {unit}"
        arguments[word] = unit
        properties[word] = _property(rng, word, UNITS[:2] if unit in UNITS[:2] else UNITS)
    elif roll < 0.38:  # a parameter that the question says nothing about
        word = rng.choice([word for word in UNIT_WORDS + WHEN_WORDS if word != first])
        properties[word] = _property(rng, word, UNITS[:2] if word in UNIT_WORDS else ())
        return _task(rng, topic, name, first, properties, [first], question, arguments)
    elif rng.random() < 0.3:
        question = f"{question} {rng.choice(TRAILING)}"
    return _task(rng, topic, name, first, properties, list(arguments), question, arguments)


def _task(
    rng: random.Random,
    topic: str,
    name: str,
    first: str,
    properties: dict[str, Any],
    required: list[str],
    question: str,
    arguments: dict[str, str],
) -> Task:
    description = rng.choice(DESCRIPTIONS).format(t=topic, T=topic.capitalize(), p=first.replace("_", " "))
    return Task(
        _tool(rng, name, description, properties, required), question, {"name": name, "arguments": arguments}, topic
    )


def loose(rng: random.Random, asked: Task) -> str:
    """Another question for the same call: its words in some order, among others."""
    values = list(asked.call["arguments"].values())
    if asked.name in SPECIAL_NAMES or len(values) > 1:
        return asked.question
    topic = rng.choice(asked.topic.split()) if rng.random() < 0.3 else asked.topic
    if rng.random() < 0.2:
        topic = topic[:-1] if topic.endswith("s") else topic + "s"
    around = [
        " ".join(
            rng.choice(words.FILLERS) if rng.random() < 0.6 else any_word(rng)
            for _ in range(rng.choice((0, 1, 1, 2, 3)))
        )
        for _ in range(3)
    ]
    near = f"{rng.choice(('in', 'at', 'for', 'of', 'near', 'from', 'to', 'around', 'over', 'by', 'about'))} {values[0]}"
    opening = rng.choice(OPENINGS)
    alone = len(asked.tool["function"]["parameters"]["properties"]) == 1
    trailing = rng.choice(TRAILING) if alone else ""
    shape = rng.choice((
        f"{opening} {around[0]} {topic} {around[1]} {near} {around[2]}",
        f"{opening} {topic} {near}", f"{opening} {values[0]}'s {topic}", f"{near} {opening} {topic}",
        f"{values[0]} {around[0]} {topic}", f"{around[0]} {topic} {values[0]} {around[1]}", f"{topic}, {values[0]}",
        f"{rng.choice(('I go', 'going', 'I travel', 'travelling', 'I am', 'flying', 'my trip'))} {near} {trailing}, {opening} {topic}",
        f"{opening} {topic} {rng.choice(('could I', 'can we', 'do they', 'should I', 'will I', 'may one', 'does one'))} "
        f"{rng.choice(words.DOINGS_OF_LIFE)} {near} {trailing}",
        f"{rng.choice(('I', 'we', 'they', 'my friends'))} {rng.choice(words.DOINGS_OF_LIFE)} {near}, {opening} {topic} {around[0]}",
        f"{opening} {topic} {around[0]} {near} {trailing}",
    ))  # fmt: skip
    return " ".join(shape.split())


def _special(rng: random.Random) -> Task:
    names, params, frames, kind_a, kind_b = rng.choice(SPECIAL)
    name = rng.choice(names)
    a, b = _value(kind_a, rng), _value(kind_b, rng)
    shown = f'"{a}"' if kind_a == "phrase" and rng.random() < 0.3 else a
    question = rng.choice(frames).format(a=shown, b=b)
    first = params[0] if rng.random() < 0.6 else rng.choice(NAME_WORDS)
    arguments = {first: a}
    if params[1] and params[1] != first:
        arguments[params[1]] = b
    properties = {word: _property(rng, word) for word in arguments}
    description = rng.choice(("", name.replace("_", " ").capitalize() + ".", name.replace("_", " ")))
    tool = _tool(rng, name, description, properties, list(arguments))
    return Task(tool, question, {"name": name, "arguments": arguments}, name)


def _property(rng: random.Random, word: str, enum: tuple[str, ...] = ()) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "string"}
    if enum and rng.random() < 0.5:
        made["enum"] = list(enum)
    if rng.random() < 0.3:
        made["description"] = rng.choice(
            ("The {}.", "{}", "Name of the {}", "The {} to look up", "Which {}?", "{}, e.g. Bonn")
        ).format(word.replace("_", " "))
    return made


def _tool(
    rng: random.Random, name: str, description: str, properties: dict[str, Any], required: list[str]
) -> dict[str, Any]:
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.7:
        parameters["required"] = required
    if rng.random() < 0.15:
        parameters["additionalProperties"] = False
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def result(rng: random.Random, asked: Task) -> tuple[str, str]:
    """What a tool gave back, and how it is told in a sentence."""
    roll = rng.random()
    if roll < 0.4:
        values = {key: _result_value(rng) for key in rng.sample(RESULT_KEYS, rng.choice((1, 2, 2, 3)))}
        told = ", ".join(f"{key} {value}" for key, value in values.items())
        return json.dumps(values, ensure_ascii=False), told
    told = str(_result_value(rng)) if roll < 0.6 else _plain(rng, asked)
    if roll > 0.8:
        told = " ".join(any_word(rng) for _ in range(rng.randrange(1, 7))).capitalize()
    return told + rng.choice(("", ".")), told


def _result_value(rng: random.Random) -> str | int:
    roll = rng.random()
    if roll < 0.25:
        return rng.randrange(-20, 2000)
    if roll < 0.45:
        return f"{rng.randrange(-20, 40)} {rng.choice(('°C', 'degrees', '%', 'km/h', 'EUR', 'm', '°F'))}"
    if roll < 0.65:
        return rng.choice(SKIES)
    return phrase(rng) if roll < 0.8 else thing_name(rng)


def _plain(rng: random.Random, asked: Task) -> str:
    value = next(iter(asked.call["arguments"].values()))
    return rng.choice(
        (
            f"{rng.randrange(-20, 40)} °C and {rng.choice(SKIES)}",
            f"{rng.choice(SKIES)}, {rng.randrange(-20, 40)} degrees",
            f"{value}: {_result_value(rng)}",
            f"The {asked.topic} is {_result_value(rng)}",
            f"{phrase(rng)}, {phrase(rng)}",
            f"error: {phrase(rng)}",
        )
    )


def told(asked: Task, told_result: str) -> str:
    """The sentence after a tool's result."""
    value = next(iter(asked.call["arguments"].values()))
    return f"The tool {asked.name} says about {value}: {told_result}."
