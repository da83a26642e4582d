"""Patterns of tokenizers: plain ones aren't tried, those that never end are refused."""

import json

import pytest
from conftest import SHARED
from tokenizers import Tokenizer, models, pre_tokenizers

from embedkit import UserError, patterns
from embedkit.patterns import WELL_KNOWN, refuse_endless


def made(**parts):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return json.dumps(json.loads(tokenizer.to_str()) | parts)


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@pytest.fixture
def untried(monkeypatch):
    monkeypatch.setattr(patterns.sys, "executable", "/no/such/interpreter")


@pytest.mark.parametrize("steps", [None, *map(split, WELL_KNOWN), {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]}])
def test_plain_steps_and_well_known_patterns_are_not_tried(untried, steps):
    refuse_endless(made(pre_tokenizer=steps), "it")


def test_other_patterns_are_tried_wherever_they_stand(untried):
    for parts in ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split("a")]}}, {"normalizer": split("a")}):
        with pytest.raises(FileNotFoundError):
            refuse_endless(made(**parts), "it")


def test_a_pattern_that_ends_is_taken():
    refuse_endless(made(pre_tokenizer=split("[a-z]+|[0-9]{1,3}")), "it")


@pytest.mark.parametrize("pattern", ["(a|aa|a)+$", "((((("])
def test_a_pattern_that_does_not_work_on_short_texts_is_refused(pattern):
    with pytest.raises(UserError, match="it fails on short texts .its pattern .*; take a network with another tokenizer"):
        refuse_endless(made(pre_tokenizer=split(pattern)), "it")


@pytest.mark.slow
def test_a_pattern_that_takes_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 2)
    blow_up = {"type": "Replace", "pattern": {"Regex": "."}, "content": "ab " * 300_000}
    with pytest.raises(UserError, match="it takes more than 2 seconds on short texts .its pattern .*; take a network with another"):
        refuse_endless(made(normalizer=blow_up), "it")
    monkeypatch.setattr(patterns, "WAIT", 0.01)
    with pytest.raises(UserError, match="it doesn't get done with short texts in 0.01 seconds .its pattern .*; take a"):
        refuse_endless(made(pre_tokenizer=split("a")), "it")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", '{"normalizer": {"type": []}}'])
def test_what_is_no_tokenizer_is_refused(text):
    with pytest.raises(UserError, match="it can't be read as a tokenizer .*; take the complete folder of a network"):
        refuse_endless(text, "it")


@pytest.mark.shared
def test_the_tokenizer_of_a_real_bert_is_not_tried(untried):
    refuse_endless((SHARED / "models" / "all-MiniLM-L6-v2" / "tokenizer.json").read_text(), "it")
