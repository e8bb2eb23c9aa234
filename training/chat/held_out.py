"""What the model is judged by and never trained on: questions about other things, tools and their questions, and frames
for the names of commands, errors,
    settings and tools. The rephrasings of the facts are the `D:` and `H:` lines of `facts.txt`.
"""

from __future__ import annotations

import random
from typing import Any

from training.chat.facts import Fact

NAME_FRAMES = {
    "command": ("I saw herd-mcp {} in the help. What's its purpose?",
    "Could you say in brief what herd-mcp {} is about?"),
    "tool": ("Claude shows me a tool called {}, what is that?", "In which situation is the MCP tool {} called?"),
    "resource": ("A client offers me {}, what would that be?", "What would reading {} give me?"),
    "setting": ("In my config.toml there is {}, what's that about?", "Please say what changing {} would do"),
    "error": ("Oh no, a tool call ended in {}. What now?", "Which problem is behind {}?"),
}  # fmt: skip


def name_questions(fact: Fact) -> list[str]:
    """Two questions by name, for facts that have one."""
    return [frame.format(fact.name) for frame in NAME_FRAMES.get(fact.kind, ())]


OUTSIDE = (
    "What's Australia's capital city?", "Who painted the Mona Lisa?", "In what year did the Titanic sink?",
    "Could you help me bake banana bread?", "Solve 3x - 7 = 20 for x", "What is 17 * 23?",
    "How many grams are in an ounce?",
    "Write me a short poem on autumn leaves", "Give me a Python function that checks for palindromes",
    "Why does my JavaScript promise never resolve?", "Tell me a knock-knock joke", "Who is your favourite philosopher?",
    "What should I name my puppy?", "Is it going to rain this weekend?", "How high is Kilimanjaro?",
    "Which team won the Champions League in 2012?", "What are the symptoms of the flu?", "My knee hurts when I run",
    "Please translate 'good luck' into Portuguese", "How does one say butterfly in Finnish?",
    "What did Nietzsche mean by eternal return?",
    "Summarise the plot of Hamlet", "Which phone should I buy this year?", "How do I remove a red wine stain?",
    "How long should I boil an egg?", "What's the boiling point of ethanol?",
    "Explain general relativity to a ten year old",
    "How do vaccines work?", "Can you recommend a good thriller novel?", "Do fish sleep?", "Why are flamingos pink?",
    "What came first, the chicken or the egg?", "Are aliens real?", "How do I tie a tie?", "How can I lose five kilos?",
    "What is the fastest animal on land?", "What's the currency of Denmark?", "Give me three synonyms of beautiful",
    "What is the derivative of x squared?", "Convert 72 fahrenheit to celsius", "What's your opinion on politics?",
    "Write a haiku about the sea", "How do I centre a div in CSS?", "What does the SQL keyword HAVING do?",
    "Explain what a monad is", "How do I exit vim?", "How can I uninstall Microsoft Teams?",
    "My printer prints blank pages",
    "Is Kubernetes worth learning?", "Reset my Netflix password", "Who wrote Don Quixote?",
    "When did the Berlin Wall fall?",
    "How many moons does Jupiter have?", "What are black holes made of?", "What's the tallest building in the world?",
    "I feel lonely tonight", "Should I break up with my boyfriend?", "What's a good gift for my mother?",
    "Plan a three day trip to Iceland", "Which wine goes with salmon?", "Is coffee bad for you?",
    "How many calories has a banana?",
    "Draft a letter to my landlord about mould", "What is a mortgage?", "How does compound interest work?",
    "Who is the prime minister of the United Kingdom?", "Name five rivers in Africa",
    "What language is spoken in Brazil?",
    "Sing me a lullaby", "Let's play twenty questions", "Do you believe in ghosts?", "What is consciousness?",
    "How old is the universe?", "What year is it?", "Tell me today's headlines", "What's 15 percent of 80?",
    "asdf qwer zxcv", "blorp", "lorem ipsum dolor sit amet", "42", "How do magnets work?", "Why do cats purr?",
    "What's the difference between a crocodile and an alligator?", "How is cheese made?", "Who discovered penicillin?",
    "What is the plural of octopus?", "Is 91 prime?", "What's the longest river in Europe?",
    "How do I grow tomatoes on my balcony?",
    "What's the best way to learn Japanese?", "Write a birthday message for my brother", "Count backwards from ten",
    "Which planet is closest to the sun?", "What is blockchain?", "How can I fall asleep faster?",
    "Who was Genghis Khan?",
    "What's the recipe for guacamole?", "How many bones are in the human body?", "What is the Fibonacci sequence?",
    "Roast me",
)  # fmt: skip

CITIES = ("Zürich", "Reykjavík", "Tallinn", "Ljubljana", "Marrakesh", "Adelaide", "Kraków", "Leipzig", "Bristol",
    "Sapporo", "Nagpur",
          "Cusco", "Ottawa", "Portland", "Ghent", "Utrecht", "Valencia", "Thessaloniki", "Bergen", "Tampere",
          "San Sebastián",
          "New Orleans", "Salt Lake City", "Novi Sad", "La Paz", "Saint-Denis", "Überlingen", "Chur", "Bern",
          "Poznań")  # fmt: skip

TOOLS = (
    # name, description, parameter, question with {v}
    ("get_weather", "Get the current weather for a city", "city", "What's the weather in {v}?"),
    ("get_weather", "Current weather", "location", "Could you check how the weather is over in {v}?"),
    ("weather_report", "Reports the weather.", "city", "I'd like the weather report for {v}"),
    ("weather_station", "Weather data of a town", "town", "Weather please, {v}"),
    ("fetch_weather_data", "", "place", "what sort of weather does {v} have today"),
    ("current_weather", "Returns the present weather.", "city_name", "Going to {v} soon, what's the weather like?"),
    ("forecast_for", "Weather forecast", "location", "What's the forecast for {v}?"),
    ("get_local_time", "The local time in a city", "city", "What time is it in {v} now?"),
    ("local_temperature", "Temperature of a place", "place", "Tell me {v}'s temperature"),
    ("sunset_times", "When the sun sets", "city", "When is the sunset in {v}?"),
    ("fetch_museum_list", "Museums of a city", "city", "Which museum could I visit in {v}?"),
    ("find_pharmacy", "Finds a pharmacy", "town", "Where's a pharmacy in {v}?"),
    ("bus_schedule", "Bus schedules", "station", "I need the bus schedule at {v}"),
    ("train_departures", "Departures of trains", "station", "Show train departures from {v}"),
    ("crime_rate", "Crime statistics", "region", "How's the crime rate in {v}?"),
    ("rent_index", "Average rent", "city", "What's the average rent in {v}?"),
)  # fmt: skip

UNFIT = (
    "So what is herd-mcp really?", "Tell me how herd-mcp gets installed", "Hello, you there!",
    "Thank you, that was nice",
    "Oh no, a tool call ended in busy. What now?", "On which port is the node?", "How is the node stopped again?",
    "Who wrote Don Quixote?", "Tell me a knock-knock joke", "Why are flamingos pink?", "What is the plural of octopus?",
    "How do I get one more Mac invited?", "Roast me", "How do vaccines work?", "What does HERD_HOME hold?",
)  # fmt: skip
"""Questions that no tool of TOOLS fits."""

SYSTEMS = ("You are an assistant that helps around the house. Be friendly.", "Reply politely, in plain words.")


def schema(name: str, description: str, parameter: str) -> dict[str, Any]:
    properties = {parameter: {"type": "string"}}
    parameters = {"type": "object", "properties": properties, "required": [parameter]}
    return {"name": name, "description": description, "parameters": parameters}


def tool_cases(seed: int, number: int) -> list[tuple[list[dict[str, Any]], str, str, dict[str, str]]]:
    """Tools (one to three), a question that fits one of them, and the name and arguments of the right call."""
    rng = random.Random(seed)
    cases = []
    for index in range(number):
        name, description, parameter, question = TOOLS[index % len(TOOLS)]
        city = CITIES[(index * 7 + index // len(TOOLS)) % len(CITIES)]
        stem = set(name.split("_"))
        others = [tool for tool in TOOLS if not stem & set(tool[0].split("_")) and "weather" not in tool[1].lower()]
        shown = [schema(name, description, parameter)]
        shown += [schema(*other[:3]) for other in rng.sample(others, rng.choice((0, 0, 1, 2)))]
        rng.shuffle(shown)
        cases.append((shown, question.format(v=city), name, {parameter: city}))
    return cases
