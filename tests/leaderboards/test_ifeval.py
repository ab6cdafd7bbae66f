"""IFEval's checks without a network, and by lm-eval's own measure."""

import json

import pytest

from interact_jax.leaderboards import ifeval, sentences
from interact_jax.schema import InputError
from tests.network import no_network  # noqa: F401

pytestmark = pytest.mark.usefixtures("no_network")

# Every instruction, a reply that follows it, and one that does not.
CASES = {
    "keywords:existence": ({"keywords": ["sea", "sky"]}, "The sea, the sky.", "The sea."),
    "keywords:frequency": (
        {"keyword": "sea", "frequency": 2, "relation": "at least"},
        "sea sea",
        "sea",
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["sea"]}, "The sky.", "The sea."),
    "keywords:letter_frequency": (
        {"letter": "z", "let_frequency": 2, "let_relation": "less than"},
        "a zoo",
        "a fizzy zoo",
    ),
    "language:response_language": (
        {"language": "de"},
        "Das ist ein ganz gewöhnlicher deutscher Satz, den jeder versteht.",
        "This is an ordinary English sentence that everybody understands.",
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": "less than"},
        "Mr. Smith and Dr. Jones came at 5 p.m. to see me. They left.",
        "One came. Two came. Three came.",
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    "length_constraints:number_words": ({"num_words": 3, "relation": "at least"}, "a b c", "a b"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "now"},
        "One.\n\nNow two.",
        "One.\n\nTwo now.",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 1}, "to [name]", "to (name)"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "a\nP.S. b", "a b"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n* b", "* a"),
    "detectable_format:constrained_response": ({}, "My answer is yes.", "Yes."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 1}, "*a b*", "a b"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\na\nPart 2\nb",
        "Part 1\na",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<A title>>\ntext", "A title\ntext"),
    "combination:two_responses": ({}, "one\n******\ntwo", "one\ntwo"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say it."}, "Say it. It.", "It."),
    "startend:end_checker": ({"end_phrase": "The end."}, "So. The end.", "The end. So."),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        "It is NOT, I say, HERE.",
        "It is NOT here.",
    ),
    "change_case:english_capital": (
        {},
        "THIS IS WRITTEN IN ENGLISH, AND ALL IN CAPITAL LETTERS.",
        "This is written in English.",
    ),
    "change_case:english_lowercase": (
        {},
        "this is written in english, and all in lower case.",
        "This is written in English.",
    ),
    "punctuation:no_comma": ({}, "a b", "a, b"),
    "startend:quotation": ({}, '"a"', "a"),
}


def line(name, n=0):
    return {
        "key": n,
        "prompt": f"Prompt {n} of {name}",
        "instruction_id_list": [name],
        "kwargs": [CASES[name][0] | {"unused": None}],
    }


def write(path, lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    lines = [line(name, n) for n, name in enumerate(CASES)]
    return ifeval.read_prompts(write(tmp_path_factory.mktemp("q") / "input_data.jsonl", lines))


def test_there_is_a_case_for_every_instruction():
    assert set(CASES) == set(ifeval._checkers())


@pytest.mark.parametrize("place", range(len(CASES)), ids=list(CASES))
def test_a_reply_follows_or_it_does_not(prompts, place):
    _, good, bad = CASES[prompts[place].ids[0]]
    assert ifeval.check(prompts[place], good).strict == (True,)
    assert ifeval.check(prompts[place], bad).strict == (False,)
    assert ifeval.check(prompts[place], " \n").loose == (False,)


def test_every_figure_is_that_of_lm_eval(prompts):
    from lm_eval.tasks.ifeval import utils

    replies = {}
    for n, prompt in enumerate(prompts):
        _, good, bad = CASES[prompt.ids[0]]
        forms = (good, bad, f"Sure:\n{good}", f"{good}\nIs that all?", f"Sure:\n{good}\nBye", bad)
        replies[prompt.text] = forms[n % len(forms)]
    scores = [
        utils.process_results(
            {
                "key": 0,
                "prompt": prompt.text,
                "instruction_id_list": list(prompt.ids),
                "kwargs": [dict(one) for one in prompt.parameters],
            },
            [replies[prompt.text]],
        )
        for prompt in prompts
    ]
    found = ifeval.grade(prompts, replies)
    for kind in ("strict", "loose"):
        whole = [score[f"prompt_level_{kind}_acc"] for score in scores]
        each = [score[f"inst_level_{kind}_acc"] for score in scores]
        assert found[f"prompt_{kind}"] == pytest.approx(100 * sum(whole) / len(whole))
        expected = 100 * utils.agg_inst_level_acc(each)
        assert found[f"instruction_{kind}"] == pytest.approx(expected)
    assert 0 < found["prompt_strict"] < found["prompt_loose"] < 100


def test_prompts_and_instructions_are_counted_apart(tmp_path):
    names = ["punctuation:no_comma", "startend:quotation"]
    both = {
        "key": 0,
        "prompt": "Both",
        "instruction_id_list": names,
        "kwargs": [CASES[name][0] for name in names],
    }
    path = write(tmp_path / "q.jsonl", [both, line("punctuation:no_comma")])
    prompts = ifeval.read_prompts(path)
    found = ifeval.grade(prompts, {"Both": "no quotes", prompts[1].text: "fine"})
    assert (found["prompt_strict"], found["prompts"]) == (50, 2)
    assert found["instruction_strict"] == pytest.approx(200 / 3)
    assert found["prompt_strict_error"] == pytest.approx(50)


def test_short_texts_are_judged_alike_every_time(prompts):
    """Unseeded, the detector takes this for several languages."""
    prompt = next(p for p in prompts if p.ids[0] == "language:response_language")
    import langdetect

    text = "Otec matka syn."
    langdetect.DetectorFactory.seed = None
    assert len({langdetect.detect(text) for _ in range(40)}) > 1
    seen = set()
    for _ in range(40):
        langdetect.DetectorFactory.seed = None
        seen.add(ifeval.check(prompt, text).strict)
        seen.add(langdetect.detect(text))
    assert len(seen) == 2


def test_the_loose_forms():
    assert set(ifeval.loose_forms("*a*\nb\nc")) == {
        *("*a*\nb\nc", "a\nb\nc", "b\nc", "*a*\nb", "a\nb", "b"),
    }


def test_the_sentence_splitter_is_nltk_s_with_the_tables_of_its_package():
    import nltk
    import punkt

    assert sentences.provide()
    text = "Mr. Smith paid $3.50 at 5 p.m. He left. Was it Dr. Jones? Yes! It was in the U.S. Army."
    assert nltk.sent_tokenize(text) == punkt.sent_tokenize(text, "english")
    assert len(nltk.sent_tokenize(text)) == 5
    tables = nltk.tokenize.PunktTokenizer("english")._params
    model = punkt.load_model("english")
    assert tables.abbrev_types == model.abbrev_types
    assert tables.collocations == model.collocations
    assert tables.sent_starters == model.sent_starters
    assert dict(tables.ortho_context) == dict(model.ortho_context)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction_id_list": ["keywords:color"]}, "unknown instruction: 'keywords:color'"),
        ({"kwargs": []}, "lists that differ: 1 instructions, 0 kwargs"),
        ({"kwargs": [3]}, "wrong type: the kwargs of .* are 3"),
        ({"kwargs": [{"num_words": 3}]}, "missing parameter: .*expected num_words, relation"),
        ({"kwargs": [{"num_words": -1, "relation": "at least"}]}, "missing parameter"),
        ({"kwargs": [{"num_words": 3, "relation": "about"}]}, "bad parameter: .*about"),
        ({"kwargs": [{"words": 3}]}, "unknown parameter: 'words'"),
    ],
)
def test_instructions_that_cannot_be_checked_are_refused_with_their_place(
    change, message, tmp_path
):
    path = write(tmp_path / "q.jsonl", [line("length_constraints:number_words") | change])
    with pytest.raises(InputError, match=rf"q\.jsonl:1: {message}"):
        ifeval.read_prompts(path)


def test_prompts_without_a_reply_are_refused(prompts):
    with pytest.raises(InputError, match=f"1 of {len(prompts)} prompts have no reply"):
        ifeval.grade(prompts, {prompt.text: "x" for prompt in prompts[1:]})
