"""Herds of unequal Macs and what is asked of them, made from a seed."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from benchmarks.parts.macs import BY_NAME, CHIPS, MODELS, Chip, Model
from benchmarks.parts.sim_mac import SimMac, Task
from herd_mcp.fleet.prefixes import kept_of, prefixes_of
from herd_mcp.jobs import ChatRequest, ChatResult, ImageRequest, Message, Usage

KEY = b"the herd's"
TOKENS_PER_BYTE = 0.25
RATES_OFF = 1.3
"""Told rates are wrong by up to this factor, either way, for good: nothing is learned in a trace."""
TASKS = 120
READ_S = 12.0
"""A conversation's next turn does not come sooner."""
BURSTS, STEADY, CHATS, MIXED, COLD, DEATH, SLEEP = CLASSES = (
    "bursts of images",
    "steady images",
    "chats, shared prefixes",
    "images and chats",
    "cold models",
    "a Mac dies",
    "a Mac falls asleep",
)
IMAGE_HEAVY = (BURSTS, STEADY)


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    seed: int
    macs: tuple[SimMac, ...]
    """As they are at the beginning; a run works on copies."""
    believed: tuple[dict[str, float], ...]
    """By Mac and model: how many times longer the Mac says that work takes than it does."""
    delay_s: tuple[tuple[float, ...], ...]
    """Of the report of a Mac (second index) to another (first)."""
    tasks: tuple[Task, ...]
    down: tuple[tuple[int, float, float], ...] = ()
    """A Mac, from when, until when (infinity: it died)."""


def make(name: str, seed: int) -> Trace:
    rng = random.Random(f"{name}/{seed}")
    wants = _wanted(name, rng)
    fails = name in (DEATH, SLEEP)
    chips = rng.sample(CHIPS, rng.randint(3 if fails else 2, 8))
    victim = rng.randrange(len(chips)) if fails else -1
    macs = [_mac(chip, wants, rng) for chip in chips]
    for model in wants:  # whoever else fails, one can
        able = [index for index, mac in enumerate(macs) if index != victim]
        if not any(macs[index].able(model.name) for index in able):
            largest = max(able, key=lambda index: macs[index].chip.memory_gb)
            if model.bytes <= macs[largest].chip.budget_bytes:
                macs[largest].models += (model.name,)
    wants = [model for model in wants if any(mac.able(model.name) for i, mac in enumerate(macs) if i != victim)]
    for mac in macs:
        here = [model for model in wants if mac.able(model.name)]
        if here and rng.random() < (0.3 if name == COLD else 0.8):
            mac.loaded[rng.choice(here).name] = None
    askers = [index for index in range(len(macs)) if index != victim]
    tasks = _tasks(name, wants, macs, askers, rng)
    span_s = tasks[-1].at_s
    down: tuple[tuple[int, float, float], ...] = ()
    if fails:
        from_s = rng.uniform(0.3, 0.5) * span_s
        down = ((victim, from_s, math.inf if name == DEATH else from_s + rng.uniform(20, 120)),)
    off = math.log(RATES_OFF)
    return Trace(
        name,
        seed,
        tuple(macs),
        tuple({model.name: math.exp(rng.uniform(-off, off)) for model in MODELS} for _ in macs),
        tuple(tuple(rng.uniform(0.5, 3.0) if a != b else 0.0 for b in range(len(macs))) for a in range(len(macs))),
        tasks,
        down,
    )


def _wanted(name: str, rng: random.Random) -> list[Model]:
    images = [model for model in MODELS if model.kind == "image"]
    chats = [model for model in MODELS if model.kind == "chat"]
    if name in IMAGE_HEAVY:
        return images[:1] + rng.sample(images[1:], rng.randint(0, 1))
    if name == CHATS:
        return chats[:1] + rng.sample(chats[1:], rng.randint(0, 1))
    if name == COLD:
        return list(MODELS)
    return [images[0], rng.choice(chats[:2])]


def _mac(chip: Chip, wants: list[Model], rng: random.Random) -> SimMac:
    """What its engines lose to each other is not what placement expects of it either: 15 % a stream, 1 / 1.6, 0.35."""
    disk = _disk(chip.budget_bytes, wants, rng)
    return SimMac(chip, disk, rng.uniform(0.05, 0.25), rng.uniform(0.5, 0.75), rng.uniform(0.25, 0.5))


def _disk(budget_bytes: int, wants: list[Model], rng: random.Random) -> tuple[str, ...]:
    fits = [model for model in wants if model.bytes <= budget_bytes]
    return tuple(model.name for model in fits if rng.random() < 0.85)


def _tasks(
    name: str, wants: list[Model], macs: list[SimMac], askers: list[int], rng: random.Random
) -> tuple[Task, ...]:
    """Asked so often that the herd is busy for a part of the time that is drawn too."""
    load = rng.uniform(0.35, 0.85)
    systems = ["S" * rng.randint(400, 8000) + str(number) for number in range(3)]
    talks: dict[int, tuple[float, list[Message]]] = {}
    tasks: list[Task] = []
    at_s = 0.0
    burst: list[int] = []
    model, asker = wants[0], askers[0]
    while len(tasks) < TASKS:
        if not burst:
            size = rng.randint(2, max(3, round(2.5 * len(macs)))) if name in (BURSTS, DEATH, SLEEP) else 1
            burst = [size] * size
            model, asker = _model(wants, rng), rng.choice(askers)
        number = len(tasks)
        if model.kind == "image":
            task = _image(number, at_s, asker, model, rng)
        else:
            task = _chat(number, at_s, asker, model, systems, talks, rng)
        tasks.append(task)
        gap_s = _share_s(task, macs) / load
        at_s += rng.uniform(0, 0.3) if len(burst) > 1 else rng.expovariate(1 / (gap_s * burst[0]))
        burst.pop()
    return tuple(tasks)


def _model(wants: list[Model], rng: random.Random) -> Model:
    """The first more often than the second, and so on."""
    return rng.choices(wants, [1 / (rank + 1) for rank in range(len(wants))])[0]


def _share_s(task: Task, macs: list[SimMac]) -> float:
    """Seconds of the whole herd that the task takes, if all that have its model worked on such tasks alone. Of chats
    about five fit beside each other."""
    beside = 5.0 if task.kind == "chat" else 1.0
    return 1 / sum(beside / mac.work_s(task) for mac in macs if mac.able(task.model))


def _image(number: int, at_s: float, asker: int, model: Model, rng: random.Random) -> Task:
    side = rng.choice((512, 768, 1024))
    steps = rng.choice((4, 4, 8, 20))
    request = ImageRequest(prompt="a circle", model=model.name, width=side, height=side, steps=steps)
    return Task(number, at_s, asker, "image", model.name, side * side / 1e6, steps, request=request)


def _chat(
    number: int,
    at_s: float,
    asker: int,
    model: Model,
    systems: list[str],
    talks: dict[int, tuple[float, list[Message]]],
    rng: random.Random,
) -> Task:
    """The next turn of a conversation, or the first of another with one of the shared beginnings."""
    read = [talk for talk, (asked_s, _) in talks.items() if asked_s < at_s - READ_S]
    if read and rng.random() < 0.75:
        talk = rng.choice(read)
        messages = talks[talk][1]
    else:
        talk = number
        messages = [Message(role="system", content=rng.choice(systems))]
    talks[talk] = (at_s, messages)
    messages.append(Message(role="user", content=f"{number} " + "u" * rng.randint(50, 4000)))
    answer_tokens = max(8, round(rng.lognormvariate(math.log(model.answer_tokens), 0.6)))
    max_tokens = rng.choice((None, None, 128, 1024))
    answer_tokens = min(answer_tokens, max_tokens or 4096)
    request = ChatRequest(messages=tuple(messages), model=model.name, max_tokens=max_tokens)
    answer = f"{number} " + "a" * int(answer_tokens / TOKENS_PER_BYTE)
    result = ChatResult(text=answer, finish_reason="stop", usage=Usage(), model=model.name, node="")
    beginnings = prefixes_of(request, model.name, KEY)
    messages.append(Message(role="assistant", content=answer))
    return Task(
        number,
        at_s,
        asker,
        "chat",
        model.name,
        prompt_tokens=round(beginnings[-1].bytes * TOKENS_PER_BYTE),
        answer_tokens=answer_tokens,
        request=request,
        beginnings=tuple((prefix.digest, round(prefix.bytes * TOKENS_PER_BYTE)) for prefix in beginnings),
        keeps=kept_of(request, result, model.name, KEY),
    )


def lower_bound_s(trace: Trace) -> float:
    """No policy has a smaller mean: every task alone on the Mac that is fastest for it, warm, its prompt in the cache;
    and of images at least what one machine as fast as all together would need, the shortest left first."""
    tasks = trace.tasks
    alone = {task.number: min(_bare_s(mac, task) for mac in trace.macs if mac.able(task.model)) for task in tasks}
    images = [task for task in tasks if task.kind == "image"]
    together = _together_s(trace, images, alone) if images else 0.0
    images_s = max(together, sum(alone[task.number] for task in images))
    return (images_s + sum(alone[task.number] for task in tasks if task.kind == "chat")) / len(tasks)


def _bare_s(mac: SimMac, task: Task) -> float:
    if task.kind == "image":
        return mac.work_s(task)
    return task.answer_tokens / BY_NAME[task.model].decode_tokens_per_s(mac.chip)


def _together_s(trace: Trace, images: list[Task], alone: dict[int, float]) -> float:
    """Sum of the completion times on one machine, which may change its task at any time, so many times faster than the
    fastest Mac as all Macs together are."""
    speed = sum(
        max((alone[task.number] / mac.work_s(task) for task in images if mac.able(task.model)), default=0.0)
        for mac in trace.macs
    )
    left: list[list[float]] = []
    total_s, now_s = 0.0, 0.0
    for task in [*images, None]:
        until_s = task.at_s if task else math.inf
        while left and now_s < until_s:
            shortest = min(left)
            step_s = min(shortest[0] / speed, until_s - now_s)
            now_s += step_s
            shortest[0] -= step_s * speed
            if shortest[0] <= 1e-9:
                left.remove(shortest)
                total_s += now_s - shortest[1]
        if task:
            now_s = until_s
            left.append([alone[task.number], task.at_s])
    return total_s
