"""Small inputs of kinds that broke other trainers, each with its right outcome. The files are not
in the repository; the kinds have tests of their own beside this one."""

import dataclasses

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.dataset import load_dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.fingerprint import digest_trees
from interact_jax.data.fitting import NO_GREETING, NO_SYSTEM, NO_TOOLS
from interact_jax.data.templates import ChatTemplate
from interact_jax.data.thinking import KEPT, UNSUPPORTED
from interact_jax.printable import count_reason
from tests.data.test_fitting import TEMPLATES, prompts
from tests.tiny import REASONS, tiny_tokenizer

OK = ["ok0_1", "ok0_3", "ok1_1", "ok1_3"]
ROWS = {  # (file, template) -> ids of the interactions, what is counted, a text of the prompts
    ("c01_parts_with_id", "turns"): (["p1_1"], {}, "Hello there"),
    ("c03_developer_with_id", "plain"): (["d1_2"], {}, "<system>Be brief."),
    ("c03b_id_null", "plain"): (["c03b_id_null.1_1"], {}, "Hi"),
    ("c04_tool_calls", "tools"): (
        [*OK, "tool1_3", "tool1_5", "tool1_7"],
        {},
        '!weather{"city": "Oslo"}<tool>{"c": 3}',
    ),
    ("c04_tool_calls", "turns"): ([*OK, "tool1_5", "tool1_7"], {NO_TOOLS: 1}, ""),
    ("c06_system_column", "plain"): (["c06_system_column.1_1"], {}, "<system>SYSTEMTEXT"),
    ("c06b_openai_system_key", "plain"): (["c06b_openai_system_key.1_1"], {}, "<system>SYSTEMTEXT"),
    ("c07_conversations_role_content", "plain"): (
        ["c07_conversations_role_content.1_1"],
        {},
        "Tell me a fact",
    ),
    ("c07b_roles_case", "plain"): (["c07b_roles_case.1_1"], {}, "Tell me a fact"),
    ("c08_begins_with_assistant", "plain"): (["a1_2"], {}, "<assistant>Welcome!"),
    ("c08_begins_with_assistant", "turns"): (["a1_2"], {NO_GREETING: 1}, "<user>Tell me"),
    ("c09_system", "plain"): (["s1_2"], {}, "<system>Be brief."),
    ("c09_system", "no system"): (["s1_2"], {NO_SYSTEM: 1}, "<user>Be brief.\n\nTell me"),
    ("c10_two_user_messages", "turns"): (
        [*OK, "uu_1", "uu_4"],
        {"two messages of one role in a row": 1},
        "Shorter\n\nand about cats",
    ),
    ("c11_empty_assistant", "turns"): (
        [*OK, "e1_1", "e1_5"],
        {"empty message of the assistant": 1},
        "Shorter\n\nhello?",
    ),
    ("c15_nul_zwj", "plain"): (["z1_1"], {}, "NUL\0in text \u200d\ufeff"),
    ("c21_think", "reasons"): (["t1_1", "t1_3"], {KEPT: 2}, ""),
    ("c21_think", "plain"): (["t1_1", "t1_3"], {UNSUPPORTED: 2}, "The answer is four."),
    ("c48_message_extra_fields", "plain"): (
        ["c48_message_extra_fields.1_1"],
        {
            "tool_calls not shown by the chat template": 1,
            "tools not shown by the chat template": 1,
            "replies learned as text alone, without tool_calls": 1,
            UNSUPPORTED: 1,
        },
        "",
    ),
    ("c48_message_extra_fields", "tools"): (["c48_message_extra_fields.1_1"], {}, "?TOOLNAME"),
}


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """By the name of the template."""
    plain = ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("chatml"), "chatml"))
    sources = TEMPLATES | {"reasons": REASONS}
    return {
        name: dataclasses.replace(plain, template=ChatTemplate(source, {}, "t.jinja"))
        for name, source in sources.items()
    }


def load(shared, file, chat):
    path = str(shared / f"cases/{file}.jsonl")
    return load_dataset(path, "auto", chat, EncodeSettings(), "tree")


@pytest.mark.parametrize("row", ROWS, ids=" with ".join)
def test_each_has_its_right_outcome(row, shared, chats):
    (file, name), (ids, counted, shown) = row, ROWS[row]
    dataset = load(shared, file, chats[name])
    texts = prompts(dataset, chats[name])
    assert sorted(texts) == sorted(ids)
    assert any(shown in text for text in texts.values())
    summary = "\n".join(dataset.lines())
    for reason, times in counted.items():
        said = summary.replace(" x ", " ")
        assert any(
            f"  {text}, such as " in said
            for text in (f"{times} {reason}", count_reason(times, reason))
        )
    if not counted and name != "tools":
        assert len(summary.splitlines()) == 2, "nothing else happened"
    assert not any("</think>" in text.rpartition("<assistant>")[2] for text in texts.values())


def test_other_follow_ups_are_other_data(shared, chats):
    """Upon which a run is not resumed."""
    both = [load(shared, file, chats["plain"]) for file in ("c58_one", "c58_one_other")]
    assert [sum(dataset.interactions) for dataset in both] == [10, 10]
    trees = [[tree for trees in dataset.trees for tree in trees] for dataset in both]
    assert digest_trees(trees[0], []) != digest_trees(trees[1], [])


def test_every_input_is_here(shared):
    files = {file.stem for file in (shared / "cases").glob("*.jsonl")}
    assert files == {file for file, _ in ROWS} | {"c58_one", "c58_one_other"}
