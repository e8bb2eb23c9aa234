"""Tools made up by code: names, schemas, questions that fit them, and results."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

from training.chat import words
from training.chat.facts import expand, facts
from training.chat.tool_topics import KINDS, PLACE, RELATED, Topic
from training.chat.tool_topics import TOPICS as TABLE

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
    "San Francisco", "Los Angeles", "Houston", "Dallas", "Miami", "Toronto", "Montréal", "Vancouver", "Lima",
    "Bogotá",
    "Quito",
    "Santiago", "Buenos Aires", "São Paulo", "Rio de Janeiro", "Havana", "Málaga", "Göteborg", "Århus", "Düsseldorf",
    "Nürnberg",
)  # fmt: skip

FIRST_NAMES_OF_PLACES = (
    "New", "San", "Bad", "Port", "St.", "Lake", "North", "El", "Fort", "Saint", "Sankt", "Santa", "Santo", "São",
    "La",
    "Las", "Los", "Le", "Les", "Al", "Mount", "Monte", "Cape", "East", "West", "South", "Upper", "Great", "Little",
    "Old",
    "Kota", "Nova", "Novo", "Nueva", "Nuevo", "Puerto", "Porto", "Villa", "Ciudad", "Grand", "Nizhny", "Veliki",
    "Stara",
    "Nowy", "Velké", "Castel", "Ben", "Glen", "Ho", "Phnom", "Addis", "Tel", "Abu", "Den", "Ober", "Groß", "Neu",
    "Alt",
)  # fmt: skip
LAST_NAMES_OF_PLACES = ("City", "Beach", "Falls", "Springs", "Heights", "Bay", "Hills", "Park", "Island", "Village",
    "Harbour", "Creek", "Valley", "Rock", "Junction", "Town", "Grande", "Nuevo", "Alta", "Stadt",
    "Airport")  # fmt: skip
PARTS_OF_PLACES = (
    "Santiago", "Palma", "Villa", "Castro", "Jerez", "Alcalá", "Arcos", "Vila", "Ponte", "Viana", "Cabo", "Juan",
    "Pedro",
    "Miguel", "José", "Jorge", "Luis", "Rosa", "Cruz", "Clara", "Lucia", "Frontera", "Mar", "Sierra", "Río", "Monte",
    "Campo", "Torre", "Puente", "Reggio", "Bagno", "Castello", "Borgo", "Rocca", "Serra", "Neustadt", "Weiden",
    "Kirchheim",
    "Rothenburg", "Frankfurt", "Mühldorf", "Linden", "Rhein", "Main", "Inn", "Donau", "Neckar", "Elbe", "See",
    "Pölten",
    "Gallen", "Veit", "Georgen", "Martin", "Pierre", "Germain", "Étienne", "Rémy", "Nazaire", "Jean", "Marie",
    "Claire",
    "Loire", "Seine", "Rhône", "Mer", "Châlons", "Boulogne", "Aix", "Provence", "Bains", "Newcastle", "Burton",
    "Kingston",
    "Stoke", "Henley", "Ashby", "Trent", "Tyne", "Thames", "Avon", "Hull", "Moor", "Isle", "Bridge", "Fields",
    "Wells",
    "Andrews", "Albans", "John", "Paul", "Petersburg", "Marino", "Salvador", "Diego", "Antonio", "Paz", "Plata",
    "Lobos",
)  # fmt: skip
PLACE_SHAPES = (
    "{a} de {b}", "{a} de {b}", "{a} de {b}", "{a} de la {b}", "{a} de las {b}", "{a} de los {b}", "{a} del {b}",
    "{a} del {b}", "{a} da {b}", "{a} do {b}", "{a} dos {b}", "{a} di {b}", "{a} d'{b}", "{a} dell'{b}",
    "{a} della {b}",
    "{a} am {b}", "{a} am {b}", "{a} an der {b}", "{a} ob der {b}", "{a} im {b}", "{a} bei {b}", "{a} vor der {b}",
    "{a} aan de {b}", "{a} aan Zee", "{a} op {b}", "{a} pod {b}", "{a} nad {b}", "{a} upon {b}", "{a}-upon-{b}",
    "{a} on {b}", "{a}-on-{b}", "{a}-on-the-{b}", "{a} by the {b}", "{a} under {b}", "{a}-under-{b}", "{a} of {b}",
    "{a} of the {b}", "{a}-in-{b}", "{a}-le-{b}", "{a}-la-{b}", "{a}-les-{b}", "{a}-sur-{b}", "{a}-sur-{b}",
    "{a} sur {b}", "{a}-sous-{b}", "{a}-en-{b}", "{a}-aux-{b}", "{a}-et-{b}", "{a} y {b}", "{a} e {b}", "{a} and {b}",
    "Saint-{a}", "Sainte-{a}", "Saint-{a}-de-{b}", "Saint-{a}-sur-{b}", "Saint-{a}-des-{b}", "Saint {a} de {b}",
    "Sankt {a}", "Sankt {a} am {b}", "Sankt {a} im {b}", "St {a}", "St. {a}", "St. {a} an der {b}", "Bad {a}",
    "Bad {a} am {b}", "San {a}", "San {a} de {b}", "San {a} de los {b}", "San {a} del {b}", "Santa {a}",
    "Santa {a} de la {b}", "Santa {a} do {b}", "Santo {a} de {b}", "São {a} do {b}", "São {a}", "El {a}",
    "El {a} de {b}",
    "La {a}", "La {a} de {b}", "Las {a} de {b}", "Los {a}", "Le {a}-{b}", "L'{a}", "L'{a}-sur-{b}", "O'{a}", "'s-{a}",
    "{a}'s {b}", "{a}'{b}", "Al-{a}", "{a} al-{b}", "{a} el {b}", "{a}-{b}", "{a} {b}", "{a} {b}", "{a} {b} {c}",
    "{a} {b} de {c}", "{a} de {b} y {c}", "{a} de {b} {c}", "{a}-{b}-{c}", "{a} {b} am {c}", "Villa {a} del {b}",
    "Puerto {a} de la {b}", "Cape {a} and {b}", "Isle of {a}", "Lake of the {a}", "{a} i {b}", "{a} og {b}",
    "{a} und {b}",
)  # fmt: skip
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
EXTRAS = ("unit", "units", "limit", "language", "radius", "date", "day", "max_results", "lang", "format",
    "page", "details",
    "locale", "sort", "time", "filter", "verbose", "category", "timeout", "source")  # fmt: skip
MONEY = ("EUR", "USD", "euros", "dollars", "yen", "pounds", "GBP", "francs", "CHF", "rupees", "pesos", "kronor", "JPY")
MEASURES = ("miles", "kilometres", "pounds", "kilos", "inches", "centimetres", "feet", "metres", "litres", "gallons",
    "ounces", "grams", "cups", "degrees celsius", "fahrenheit", "acres", "km", "cm", "kg", "hours",
    "seconds")  # fmt: skip
UNITS = ("celsius", "fahrenheit", "kelvin", "metric", "imperial")

NAME_STYLES = (
    "get_{}", "get_{}", "{}_lookup", "fetch_{}", "lookup_{}", "{}", "get_current_{}", "find_{}", "{}_tool",
    "query_{}",
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
    "what is the {t} of {v}", "{t} of {v}", "tell me the {t} of {v}", "show me the {t} for {v}",
    "find the {t} of {v}",
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
    "is it very windy in {v}",
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

ASIDE_WHENS = (
    "today", "tomorrow", "tonight", "this [morning|afternoon|evening|weekend|week|month|summer]",
    "next [week|month|year]",
    "on [Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday]",
    "for [tonight|tomorrow|today|the weekend|next week]",
    "at [noon|night|midnight|the weekend|5 pm|lunchtime]", "in the [morning|evening|afternoon]",
    "in [May|June|autumn|winter]",
    "later today", "over the weekend", "tomorrow [morning|evening|night]", "the day after tomorrow", "for three days",
    "in [two hours|an hour|three days]", "[on Friday|tomorrow] [morning|evening]", "during the holidays",
    "on my birthday",
    "[for|on] [New Year|Easter|Christmas]", "all day", "early in the morning", "until [Sunday|Friday]",
)  # fmt: skip
ASIDES = (
    "at the moment", "right now", "just now", "now", "currently", "these days", "at this hour", "nowadays",
    "as we speak",
    "with my [kids|family|wife|husband|dog|friends|parents|two children|boss|mother]",
    "for [two|four] [people|adults|persons]",
    "for my [trip|holiday|meeting|mother|work|boss|homework|friends|thesis|visit|kids]",
    "on [foot|my bike|my way home]",
    "before [i leave|breakfast|we start|the match]",
    "[if possible|if you can|if that is alright|as soon as possible]",
    "[please|thanks|thank you|please and thanks|quickly please]", "because i am [going|travelling|driving] there",
    "while i am there", "[i wonder|any idea|do you know|can you check|be quick|it is urgent|just asking]", "by car",
    "for once",
    "in my lunch break", "with a [baby|tent|small budget|friend|group]", "without a car", "in short",
    "for the two of us",
)  # fmt: skip
LEADS = (
    "[quick question|tell me|listen|one thing|a question|my question],",
    "my [wife|boss|son|friend|mother] [asks|wants to know]:",
    "[i am|we are] planning [a trip|the weekend|a holiday]:", "[we leave|i leave|we start] soon,", "i am in a hurry,",
    "[please check|do you know|can you tell me|could you look up|any idea|please say|i wonder|find out]:",
    "[i'd like to know|i want to know|please tell me]:",
    "[hey|hi|hello|ok|so|well|good morning|excuse me],", "[could|can|would] you help me?",
    "[with the kids|for work],",
    "[i have a day off|i am on holiday|we are a group of four|i need this for work].",
)  # fmt: skip

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
               "count", "humidity", "wind", "condition", "answer", "state", "text", "summary",
               "location")  # fmt: skip

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
    table: Topic | None = None
    """The entry of the table that it was made from."""
    shown: tuple[str, ...] = ()
    """The values of the entry's slots as the question says them."""

    @property
    def name(self) -> str:
        return str(self.call["name"])

    def may_fit(self, question: str) -> bool:
        """Whether some other question might be one for this tool too; such pairs are left out of the data."""
        asked = question.lower()
        if self.table:
            marks = _marks()[self.table.label]
            known = any(word in marks or word.removesuffix("s") in marks for word in re.findall(r"[a-z]+", asked))
            return known or bool(_skeleton(self.table.label).match(asked))
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

    def rivals(self, other: Task) -> bool:
        """Whether the two tools are so near that one question might be for both."""
        if self.name == other.name or self.topic == other.topic:
            return True
        if any(self.topic in group and other.topic in group for group in RELATED):
            return True
        if not self.table or not other.table:
            return self.may_fit(other.question) or other.may_fit(self.question)
        return False


@cache
def _marks() -> dict[str, frozenset[str]]:
    """The words by which a topic of the table is asked for and few others are."""
    used: dict[str, set[str]] = {}
    for topic in TABLE:
        text = " ".join((topic.names.replace("_", " "), topic.label, *topic.asks)).lower()
        used[topic.label] = {
            word.removesuffix("s") for word in re.findall(r"[a-z]{3,}", re.sub(r"\{.}", " ", text))
        } - words.DROPPABLE
    counts = Counter(word for found in used.values() for word in found)
    near = {
        topic.label: {label for group in RELATED if topic.label in group for label in group if label in used}
        | {topic.label}
        for topic in TABLE
    }
    return {
        label: frozenset(
            word
            for word in found
            if counts[word] <= 3 or (counts[word] <= 6 and sum(word in used[other] for other in near[label]) > 1)
        )
        for label, found in used.items()
    }


@cache
def _skeleton(label: str) -> re.Pattern[str]:
    """What questions for this topic of the table look like, whatever the values."""
    topic = next(topic for topic in TABLE if topic.label == label)
    whole = "|".join(topic.asks)
    whole = re.sub(r"[?.+*()]", lambda sign: f"\\{sign[0]}", whole).replace("[", "(?:").replace("]", ")")
    for letter, (kind, _) in zip("abc", topic.slots, strict=False):
        whole = whole.replace(f"{{{letter}}}", r"\d[\d .+*/-]*" if kind in ("sum", "number") else ".+")
    return re.compile(whole)


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
    roll = rng.random()
    if roll < 0.2:
        return rng.choice(CITIES)
    if roll < 0.58:
        name = _part_of_place(rng)
    elif roll < 0.68:
        name = f"{rng.choice(FIRST_NAMES_OF_PLACES)} {_part_of_place(rng)}"
    elif roll < 0.72:
        name = f"{_part_of_place(rng)} {rng.choice(LAST_NAMES_OF_PLACES)}"
    else:
        a, b, c = (_part_of_place(rng) for _ in range(3))
        name = rng.choice(PLACE_SHAPES).format(a=a, b=b, c=c)
    return name if rng.random() < 0.94 else name.lower()


def _part_of_place(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.15:
        return rng.choice(CITIES).split()[0]
    return rng.choice(PARTS_OF_PLACES) if roll < 0.4 else any_word(rng).capitalize()


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
        case "place":
            return place(rng)
        case "country":
            return rng.choice(words.COUNTRIES).title() if rng.random() < 0.6 else _part_of_place(rng)
        case "person":
            if rng.random() < 0.3:
                return rng.choice(words.PERSONS).title()
            between = rng.choice(("", "", "de ", "von ", "van "))
            return f"{any_word(rng).capitalize()} {between}{any_word(rng).capitalize()}"
        case "company":
            name = any_word(rng).capitalize()
            return rng.choice(
                (name, name, f"{name} Inc", f"{name} AG", f"{name} & {any_word(rng).capitalize()}", name.upper())
            )
        case "team":
            name = _part_of_place(rng)
            return rng.choice(
                (name, f"FC {name}", f"{name} United", f"{name} {any_word(rng).capitalize()}", f"Real {name}")
            )
        case "league":
            return f"{_part_of_place(rng)} {rng.choice(('league', 'cup', 'Liga', 'Series', 'Open', 'Trophy'))}"
        case "title":
            return _title(rng)
        case "deed":
            end = rng.choice(
                ("", "", "", f" with {made_up_word(rng).capitalize()}", f" for {made_up_word(rng).capitalize()}")
            )
            return f"{rng.choice(VERBS)} {rng.choice(('the', 'my', 'a', 'the', 'our'))} {_noun(rng)}{end}"
        case "topic":
            return rng.choice(
                (_noun(rng), f"{_noun(rng)}s", f"{rng.choice(ADJECTIVES)} {_noun(rng)}s", thing_name(rng), _title(rng))
            )
        case "dish":
            return rng.choice((*words.FOODS, any_word(rng), f"{rng.choice(ADJECTIVES)} {rng.choice(words.FOODS)}"))
        case "word" | "drug" | "plant" | "coin":
            return any_word(rng) if rng.random() < 0.7 else any_word(rng).capitalize()
        case "animal":
            return f"{rng.choice(words.ANIMALS) if rng.random() < 0.6 else any_word(rng)}s"
        case "product":
            return rng.choice((f"{any_word(rng).capitalize()} {rng.randrange(2, 900)}", thing_name(rng), _noun(rng)))
        case "sign":
            return rng.choice(
                ("Aries", "Taurus", "Gemini", "Cancer", "Leo", "Virgo", "Libra", "Scorpio", "Pisces", "Aquarius")
            )
        case "number":
            return str(rng.choice((rng.randrange(2, 60), rng.randrange(2, 2000), rng.randrange(100, 90_000))))
        case "currency":
            return rng.choice((*MONEY, "".join(rng.choice("ABCDEGHJKLMNPRSTUZ") for _ in range(3))))
        case "unit":
            return rng.choice((*MEASURES, f"{made_up_word(rng)}s"))
        case "duration":
            span = rng.choice(("minutes", "minutes", "seconds", "hours", "min"))
            return rng.choice(
                (f"{rng.randrange(2, 90)} {span}", f"{rng.randrange(2, 90)} {span}", "half an hour", "an hour")
            )
        case "clock":
            hour = rng.randrange(1, 24)
            return rng.choice(
                (
                    f"{hour}:{rng.randrange(10, 60)}",
                    f"{1 + hour % 12} am",
                    f"{1 + hour % 12} o'clock",
                    f"half past {1 + hour % 12}",
                )
            )
        case "code" | "flight":
            letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(2))
            number = rng.randrange(100, 10 ** rng.choice((4, 4, 6)))
            return (
                f"{letters}{number}"
                if kind == "flight"
                else rng.choice((f"{letters}{number}", f"{letters}-{number}", str(number)))
            )
        case "url":
            site = f"{any_word(rng)}.{rng.choice(('com', 'org', 'net', 'de', 'io'))}"
            return rng.choice((site, f"https://{site}", f"https://{site}/{any_word(rng)}", f"www.{site}"))
        case "file":
            name = f"{any_word(rng)}.{rng.choice(('txt', 'md', 'pdf', 'csv', 'py', 'json'))}"
            return rng.choice((name, name, f"{any_word(rng)}/{name}", f"/home/{any_word(rng)}/{name}"))
        case _:
            return f"a {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"


def _noun(rng: random.Random) -> str:
    return rng.choice((*NOUNS, *words.THINGS_OF_LIFE)) if rng.random() < 0.8 else any_word(rng)


def _title(rng: random.Random) -> str:
    a, b = _noun(rng).title(), any_word(rng).capitalize()
    return rng.choice(
        (
            a,
            b,
            f"The {a}",
            f"{a} of {b}",
            f"The {rng.choice(ADJECTIVES).title()} {a}",
            f"{a} and {b}",
            f"My {a}",
            f"{b} {a}",
        )
    )


def tasks(rng: random.Random, number: int) -> list[Task]:
    """Tools to be shown together: no question for one is one for another, and often all want the same kind of value."""
    alike = rng.random() < 0.4
    made: list[Task] = []
    while len(made) < number:
        kind = made[0].table.slots[0][0] if alike and made and made[0].table else ""
        near = [topic for topic in TABLE if topic.slots[0][0] == kind]
        new = _from_table(rng, rng.choice(near)) if len(near) > 6 else task(rng)
        if not any(new.rivals(other) for other in made):
            made.append(new)
    return made


def task(rng: random.Random, *, topics: tuple[str, ...] = TOPICS, styles: tuple[str, ...] = NAME_STYLES) -> Task:
    """A tool and a question for it: one of the table, or one of a made-up service."""
    return _from_table(rng) if rng.random() < 0.5 else _made_up(rng, topics, styles)


def _made_up(rng: random.Random, topics: tuple[str, ...], styles: tuple[str, ...]) -> Task:
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
    elif rng.random() < 0.5:
        question = f"{question} {rng.choice(TRAILING) if rng.random() < 0.4 else _aside(rng)}"
    return _task(rng, topic, name, first, properties, list(arguments), question, arguments)


def _aside(rng: random.Random) -> str:
    return expand(rng.choice(rng.choice((ASIDE_WHENS, ASIDES))), rng)


def _from_table(rng: random.Random, topic: Topic | None = None) -> Task:
    """A tool of the table: what the question means decides, and only what the schema has goes into the call."""
    if not topic:
        topic = rng.choice(TABLE[:5]) if rng.random() < 0.09 else rng.choice(TABLE)
    told = "" if rng.random() < 0.15 else rng.choice(topic.descriptions)
    if told and rng.random() < 0.25:
        told = rng.choice(("{}.", "Use this for: {}", "{} (fast)", "{}, kept up to date", "Tool: {}.")).format(told)
    name = _styled(rng, rng.choice(topic.names.split()))
    if told and rng.random() < 0.1:
        name = _styled(rng, f"{any_word(rng)}_{any_word(rng)}" if rng.random() < 0.5 else any_word(rng))
    elif rng.random() < 0.15:
        name = f"{name}_{any_word(rng)}" if rng.random() < 0.6 else f"{any_word(rng)}_{name}"

    pattern = rng.choice(topic.asks)
    names: list[str] = []
    for kind, own in topic.slots:
        known = [word for word in (own or KINDS[kind]).split() if word not in names]
        word = rng.choice(known) if rng.random() < 0.85 else any_word(rng)
        names.append(word if word not in names else f"{word}_{len(names)}")
    values = [_value(kind, rng) if kind != "when" else _when(rng) for kind, _ in topic.slots]
    shown = tuple(values)
    properties: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for letter, word, value, (kind, _) in zip("abc", names, values, topic.slots, strict=False):
        said = f"{{{letter}}}" in pattern
        if not said and rng.random() < 0.5:
            continue
        properties[word] = _property(rng, word)
        if said:
            arguments[word] = _bare(value) if kind == "when" else value
        if kind == "number" and rng.random() < 0.4:
            properties[word]["type"] = rng.choice(("number", "integer"))
            if said:
                arguments[word] = json.loads(value)
    question = _ask(rng, topic, pattern, shown, plain=True)
    free = _is_free(topic)
    roll = rng.random()
    if not free and roll < 0.1:
        when, word = _when(rng), rng.choice([word for word in WHEN_WORDS if word not in properties])
        question = f"{question} {when}" if rng.random() < 0.8 else f"{when}, {question}"
        properties[word] = _property(rng, word)
        arguments[word] = _bare(when)
    else:
        extra = rng.choice(EXTRAS) if roll > 0.85 else ""
        if extra and extra not in properties:
            properties[extra] = _property(rng, extra, UNITS[:2] if extra in UNIT_WORDS else ())
        question = _surrounded(rng, question, free=free or extra in WHEN_WORDS)
    tool = _tool(rng, name, told, properties, list(arguments))
    if len(arguments) < len(properties):
        tool["function"]["parameters"]["required"] = list(arguments)
    return Task(tool, question, {"name": name, "arguments": arguments}, topic.label, topic, shown)


def _styled(rng: random.Random, name: str) -> str:
    roll = rng.random()
    if roll < 0.08:
        first, *rest = name.split("_")
        return first + "".join(word.capitalize() for word in rest)
    return name.replace("_", "-") if roll < 0.12 else name


def _is_free(topic: Topic) -> bool:
    """Whether words after a question might belong to its values."""
    return not {"when", "phrase", "deed", "thing", "sum", "duration", "clock"}.isdisjoint(
        kind for kind, _ in topic.slots
    )


def _when(rng: random.Random) -> str:
    return rng.choice(WHENS) if rng.random() < 0.4 else expand(rng.choice(ASIDE_WHENS[:7]), rng)


def _bare(when: str) -> str:
    """The day or time without the word before it."""
    return re.sub(r"^(?:on|in|for|at) ", "", when)


def _ask(rng: random.Random, topic: Topic, pattern: str, shown: tuple[str, ...], *, plain: bool) -> str:
    """The pattern as a question, with words of no meaning among its own where it need not be plain."""
    question = expand(pattern, rng)
    if rng.random() < 0.6:
        question = re.sub(r"\bi\b", "I", question)
    if not plain:
        parts = question.split(" ")
        if topic.slots == PLACE and rng.random() < 0.3 and len(parts) > 3:
            parts = [part for part in parts if part not in words.DROPPABLE or rng.random() < 0.5]
        for _ in range(rng.choice((0, 1, 1, 2))):
            at = rng.randrange(len(parts) + 1)
            if not any("{" in part for part in parts[max(at - 1, 0) : at + 1]):
                parts.insert(at, rng.choice(words.FILLERS))
        question = " ".join(parts)
    quote = (
        rng.choice(('"{}"', "'{}'"))
        if topic.slots[0][0] in ("phrase", "word", "title") and rng.random() < 0.3
        else "{}"
    )
    values = dict(zip("abc", shown, strict=False))
    return question.format(**{**values, "a": quote.format(shown[0])})


def _surrounded(rng: random.Random, question: str, *, free: bool) -> str:
    """The question among words that no parameter is for."""
    if rng.random() < 0.16:
        lead = expand(rng.choice(LEADS), rng)
        question = f"{lead} {question}"
    elif not free and rng.random() < 0.1:
        question = f"{expand(rng.choice(ASIDE_WHENS), rng)}, {question}"
    if not free and rng.random() < 0.5:
        question = f"{question} {_aside(rng)}"
        if rng.random() < 0.15:
            question = f"{question} {_aside(rng)}"
    elif rng.random() < 0.1:
        question = f"{question} {rng.choice(('please', 'thanks', 'will you', 'if you can'))}"
    return question


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
    if asked.table:
        return _loose_from_table(rng, asked, asked.table)
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
    going = rng.choice(("I go", "going", "I travel", "travelling", "I am", "flying", "my trip"))
    may = rng.choice(("could I", "can we", "do they", "should I", "will I", "may one", "does one"))
    who = rng.choice(("I", "we", "they", "my friends"))
    doing = rng.choice(words.DOINGS_OF_LIFE)
    shape = rng.choice((
        f"{opening} {around[0]} {topic} {around[1]} {near} {around[2]}",
        f"{opening} {topic} {near}", f"{opening} {values[0]}'s {topic}", f"{near} {opening} {topic}",
        f"{values[0]} {around[0]} {topic}", f"{around[0]} {topic} {values[0]} {around[1]}", f"{topic}, {values[0]}",
        f"{going} {near} {trailing}, {opening} {topic}", f"{opening} {topic} {may} {doing} {near} {trailing}",
        f"{who} {doing} {near}, {opening} {topic} {around[0]}",
        f"{opening} {topic} {around[0]} {near} {trailing}",
    ))  # fmt: skip
    return " ".join(shape.split())


def _loose_from_table(rng: random.Random, asked: Task, topic: Topic) -> str:
    """Another of the topic's questions, for the same values."""
    if len(asked.call["arguments"]) != len(topic.slots) or not all(
        said in map(str, asked.call["arguments"].values()) for said in asked.shown
    ):
        return asked.question
    if len(topic.slots) == 1 and rng.random() < 0.12:
        near = "in" if topic.slots[0][0] == "place" else "of"
        shapes = (
            f"{topic.label} {{a}}",
            f"{{a}} {topic.label}",
            f"{topic.label} {near} {{a}}",
            f"{{a}}: {topic.label}",
        )
        question = rng.choice(shapes).format(a=asked.shown[0])
    else:
        whole = [
            ask
            for ask in topic.asks
            if all(f"{{{letter}}}" in ask for letter, _ in zip("abc", asked.shown, strict=False))
        ]
        question = _ask(rng, topic, rng.choice(whole), asked.shown, plain=False)
    whens = set(asked.tool["function"]["parameters"]["properties"]) & set(WHEN_WORDS)
    return _surrounded(rng, question, free=bool(whens) or _is_free(topic))


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
    value = next(iter(asked.call["arguments"].values()), asked.topic)
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
    value = next(iter(asked.call["arguments"].values()), "")
    if not value:
        return f"The tool {asked.name} says: {told_result}."
    return f"The tool {asked.name} says about {value}: {told_result}."
