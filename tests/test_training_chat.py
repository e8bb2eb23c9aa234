"""The facts that the built-in chat model learns are true where code can check it, and its judge judges."""

from __future__ import annotations

import re

import typer

from herd_mcp.cli.main import app
from herd_mcp.jobs import ErrorCode
from herd_mcp.settings import Settings
from training.chat import corpus
from training.chat.dev import DEV
from training.chat.facts import COMMANDS_TO_COME, OUTSIDE, facts, is_outside
from training.chat.held_out import HELD_OUT

FACTS = facts()


def commands() -> set[str]:
    return set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def names(kind: str) -> set[str]:
    return {fact.name for fact in FACTS if fact.kind == kind}


def test_every_command_in_an_answer_exists_or_is_to_come() -> None:
    for fact in FACTS:
        named = set(re.findall(r"`herd-mcp ([a-z]+)", fact.answer))
        assert named <= commands() | set(COMMANDS_TO_COME), fact.id
        if fact.kind == "command" and fact.name in COMMANDS_TO_COME:
            assert "`herd-mcp --help` shows whether your version has it" in fact.answer


def test_it_knows_no_command_error_or_setting_that_does_not_exist() -> None:
    assert names("command") <= commands() | set(COMMANDS_TO_COME)
    assert names("error") <= set(ErrorCode)
    assert names("setting") <= set(Settings.model_fields)


def test_defaults_in_answers_are_those_of_the_settings() -> None:
    for fact in FACTS:
        for number in re.findall(r"(\d+)(?: seconds)? by default", fact.answer):
            default = Settings.model_fields[fact.name].default
            assert int(number) in (default, default // 1024**2, default // 1024**3), fact.id


def test_the_key_facts_of_an_answer_are_in_no_other() -> None:
    for fact in FACTS:
        assert fact.keys
        assert [other.id for other in FACTS if fact.is_answered_by(other.answer)] == [fact.id]
        assert not is_outside(fact.answer)
    assert is_outside(OUTSIDE)


def test_every_fact_can_be_asked_for_and_has_questions_for_development() -> None:
    assert len({fact.id for fact in FACTS}) == len(FACTS)
    for fact in FACTS:
        assert fact.dev
        assert len(fact.answer.split()) <= 45


def test_no_held_out_question_is_in_the_training_data() -> None:
    withheld = {corpus.plain(question) for fact in FACTS for question in (*fact.dev, *fact.held_out)}
    withheld |= {corpus.plain(question) for question in (*DEV.outside, *HELD_OUT.outside)}
    asked = re.findall(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", "".join(corpus.texts(1, 5_000)), re.DOTALL)
    assert len(asked) > 5_000
    assert withheld.isdisjoint(map(corpus.plain, asked))


def test_the_same_seed_makes_the_same_conversations() -> None:
    assert corpus.texts(3, 20) == corpus.texts(3, 20)
    assert corpus.texts(3, 20) != corpus.texts(4, 20)
