"""Words near to the toybox's own are read as what they plainly mean; all others stay for the prior to refuse."""

import pytest

from dreamfusion.toybox.captions import PHRASINGS, vocabulary
from dreamfusion.toybox.kinds import KINDS
from dreamfusion.toybox.words import _SYNONYMS, known_word, nearest_words, one_slip, understood
from dreamfusion.toybox.world import WIDE, Toy


@pytest.mark.parametrize(
    ("prompt", "meaning"),
    [
        ("a crimson toadstool", "a red mushroom"),
        ("bunny", "a rabbit"),
        ("Red Mushrooms", "a red mushroom"),
        ("mushroom, red", "a red mushroom"),
        ("a house, yellow, with a blue roof", "a yellow house with a blue roof"),
        ("a yelow house with a bleu roof", "a yellow house with a blue roof"),
        ("a red car with a black wheel", "a red car with black wheels"),
        ("the stripey mugg", "a striped mug"),
        ("a polka dotted orange cup", "an orange spotted mug"),
        ("a tiny polka-dot fortress", "a small spotted castle"),
        ("two snowmen", "two snowman"),  # "two" is refused by the prior, not dropped
    ],
)
def test_plain_meanings(prompt: str, meaning: str) -> None:
    reading = understood(prompt)
    assert reading.prompt == meaning
    assert reading.notes


def test_notes_name_what_was_read_as_another_word() -> None:
    assert understood("a crimson toadstool").notes == ("crimson: red", "toadstool: mushroom")
    assert understood("mushroom red").notes == ("another order",)


@pytest.mark.parametrize("phrase", PHRASINGS)
def test_captions_stay_as_they_are(phrase) -> None:
    toy = Toy("house", "yellow", "striped", "small", "blue")
    assert understood(phrase(toy)).prompt == phrase(toy)
    assert understood(phrase(toy)).notes == ()


@pytest.mark.parametrize("word", ["mouse", "goat", "elephant", "bat", "chain", "breed", "grey", "two", "panda", "hose"])
def test_words_that_mean_something_else_stay(word: str) -> None:
    assert known_word(word) is None
    assert understood(f"a red {word}").prompt == f"a red {word}"


def test_every_word_of_the_toybox_is_known_as_itself() -> None:
    assert [word for word in vocabulary() if word.isalpha() and known_word(word) != word] == []


def test_synonyms_lead_to_known_words_and_are_none_themselves() -> None:
    assert set(_SYNONYMS.values()) <= set(vocabulary(WIDE))
    assert not set(_SYNONYMS) & set(vocabulary(WIDE))


def test_a_slip_is_one_letter() -> None:
    assert one_slip("yelow", "yellow")
    assert one_slip("yellow", "yelow")
    assert one_slip("bleu", "blue")
    assert one_slip("rabbut", "rabbit")
    assert not one_slip("rabbit", "rabbit")
    assert not one_slip("rubbut", "rabbit")
    assert not one_slip("elbu", "blue")


def test_nearest_words_are_proposed() -> None:
    assert nearest_words("mouse")[0] == "house"
    assert "elephant" not in nearest_words("elephant")
    assert all(word in vocabulary() for word in nearest_words("elephant"))
    assert nearest_words("pengwine")[0] == "penguin"
    assert nearest_words("elefant", world=WIDE)[0] == "elephant"


@pytest.mark.parametrize(
    ("prompt", "meaning"),
    [
        ("a glossy red kitten", "a shiny red cat"),
        ("a red bike", "a red bicycle"),
        ("crimson spectacles with blue lenses", "red glasses with blue lenses"),
        ("a wood desk", "a wooden table"),
        ("a red mushroom beside a blue automobile", "a red mushroom next to a blue car"),
        ("a white bunny sitting on top of a green chair", "a white rabbit on a green chair"),
        ("a blue umbrela", "a blue umbrella"),
    ],
)
def test_plain_meanings_in_the_wide_world(prompt: str, meaning: str) -> None:
    reading = understood(prompt, WIDE)
    assert reading.prompt == meaning
    assert reading.notes


def test_words_of_the_wide_world_are_unknown_in_the_small_one() -> None:
    assert known_word("kitten") is None
    assert known_word("kitten", WIDE) == "cat"
    assert understood("a white rabbit near a green chair").prompt == "a white rabbit near a green chair"


def test_all_kinds_have_an_entry() -> None:
    assert set(KINDS) - {"penguin"} <= set(_SYNONYMS.values())
