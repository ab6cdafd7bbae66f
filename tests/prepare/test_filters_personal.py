"""Personal data and keys: found by form and check digits, taken out everywhere, counted."""

import dataclasses
import itertools
import json
import random

import pytest

from benchmarks import planted
from benchmarks.filters import finders, languages, personal
from interact_jax.prepare.filtering import Changed, Dropped
from interact_jax.prepare.filters import spans
from interact_jax.prepare.filters.keys import entropy, random_looking
from interact_jax.prepare.filters.personal import IDS_LEFT_OUT, LOGPS_LEFT_OUT, Personal
from interact_jax.schema import Message, Preference
from tests.prepare.talks import reason, talk

pytestmark = pytest.mark.one_device


def found(text):
    return [(span.kind, text[span.start : span.stop]) for span in spans.find(text)]


A36 = "a1B2c3D4e5" * 3 + "f6G7h8"
FOUND = {
    "e-mail": [
        "ann@example.com",
        "J.O'Neil+news@mail.example.co.uk",
        "max_m@müller-bau.de",
        "X@EXAMPLE.ORG",
    ],
    "phone": [
        "030 1234567",
        "(030) 1234567",
        "0221/4710-815",
        "+49 (0)30 1234567",
        "0049 30 1234567",
        "0151 23456789",
        "015123456789",
        "+4915123456789",
        "06 12 34 56 78",
        "06.12.34.56.78",
        "+33 6 12 34 56 78",
        "(415) 555-0132",
        "415-555-0132",
        "1-800-555-0199",
        "+1 415.555.0132",
        "020 7946 0123",
        "612 34 56 78",
        "91 123 45 67",
        "612-345-678",
        "13812345678",
        "138 1234 5678",
        "010-62345678",
        "98765 43210",
        "8 (912) 345-67-89",
        "+86 138 1234 5678",
    ],
    "card": [
        "4111 1111 1111 1111",
        "4111111111111111",
        "5500-0000-0000-0004",
        "3782 822463 10005",
        "378282246310005",
        "6011111111111117",
        "2221000000000009",
    ],
    "iban": [
        "DE89 3704 0044 0532 0130 00",
        "DE89370400440532013000",
        "de89 3704 0044 0532 0130 00",
        "GB29 NWBK 6016 1331 9268 19",
        "FR14 2004 1010 0505 0001 3M02 606",
        "CH93-0076-2011-6238-5295-7",
    ],
    "ip": [
        "203.0.113.7",
        "8.8.8.8",
        "2001:db8:85a3::8a2e:370:7334",
        "2606:2800:220:1:248:1893:25c8:1946",
        "fe80::1ff:fe23:4567:890a",
    ],
    "key": [
        "AKIAIOSFODNN7ABCDEFG",
        f"ghp_{A36}",
        f"github_pat_{A36}",
        f"glpat-{A36[:20]}",
        f"sk-{A36}",
        f"sk-proj-{A36}_x-y",
        f"sk-ant-api03-{A36}",
        f"sk_live_{A36[:24]}",
        f"whsec_{A36}",
        f"xoxb-1234567890-{A36}",
        f"xapp-1-{A36}",
        f"hooks.slack.com/services/T0000/B000/{A36[:24]}",
        f"AIza{A36[:35]}",
        f"GOCSPX-{A36[:28]}",
        f"ya29.{A36}",
        f"hf_{A36}",
        f"npm_{A36}",
        f"pypi-{A36}{A36}",
        "dop_v1_" + "0f" * 32,
        "shpat_" + "0f" * 16,
        f"SG.{A36[:22]}.{A36}",
        f"123456789:AA{A36[:33]}",
        f"eyJ{A36}.eyJ{A36}.{A36}",
        f"gsk_{A36}",
        f"nvapi-{A36}",
        f"r8_{A36}",
        "key-" + "0f" * 16,
        f"Bearer {A36}",
        "Token " + "0f" * 16,
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQ\n-----END PGP PRIVATE KEY BLOCK-----",
    ],
}
AROUND = (
    "{}",
    "It is {}, is it not?",
    "({})",
    "'{}'",
    "我填了{}。然后",
    "看:{},谢谢",
    "one\n{}\ntwo",
    "Voilà : {} !",
)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("kind", FOUND)
def test_each_form_is_found_from_end_to_end(kind, around):
    for given in FOUND[kind]:
        assert found(around.format(given)) == [(kind, given)]


@pytest.mark.parametrize("kind", FOUND)
def test_kinds_are_looked_for_as_asked(kind):
    text = "\n".join(some for given in FOUND.values() for some in given[:2])
    assert {span.kind for span in spans.find(text, (kind,))} == {kind}
    assert len(spans.find(text, (kind,))) == 2
    assert len(spans.find(text)) == 12


HARMLESS = [
    "4111111111111112",
    "0000 0000 0000 0000",
    "14111111111111111",
    "DE88 3704 0044 0532 0130 00",
    "XX89 3704 0044 0532 0130 00",
    "DE89 3704",
    "12.05.2024 10:30",
    "2024-05-01 12:30:45",
    "07.11.2023 08.11.2023",
    "2010-2015",
    "978-3-16-148410-0",
    "ISBN 0-306-40615-2",
    "order 13812345678",
    "Bestellung 015123456789",
    "订单号13812345678",
    "1700000000",
    "1700000000000",
    "1.234.567,89 €",
    "$1,234,567.89",
    "658 381 078 €",
    "3.14159265358979",
    "52.520008, 13.404954",
    "version 1.2.3.4",
    "v10.0.19045.3803",
    "192.168.178.20",
    "10.0.0.1",
    "127.0.0.1:8080",
    "300.1.1.1",
    "1.2.3.4.5",
    "::1",
    "a::b",
    "std::map<a::b>",
    "12:30:45",
    "00:1b:44:11:3a:b7",
    "550e8400-e29b-41d4-a716-446655440000",
    "d670460b4b4aece5915caf5c68d12f560a9fe3e4",
    "1 2 3 4 5 6 7 8 9 10",
    "1 000 000 000",
    "@app.route('/x')",
    "icon@2x.png",
    "react@18.2.0",
    "@ann",
    "user@localhost",
    "git@github.com:a/b",
    'api_key = os.environ["API_KEY"]',
    "api_key: 'your-key-goes-here'",
    "password = input()",
    "password: changeme1",
    "token: str",
    "token = tokenizer.encode(text)",
    "max_tokens=4096",
    "https://${USER}:${PASS}@host/",
    "sk-learn-pipeline-for-classification",
    "bearer of-good-news-and-more-of-them",
    "-----BEGIN PUBLIC KEY-----\nMIIE\n-----END PUBLIC KEY-----",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_looks_like_it_is_left_alone(text):
    assert found(text) == [] and found(f"so: {text} there") == []


def test_words_before_a_number_decide():
    assert found("call 5551234567") == [("phone", "5551234567")]
    assert found("5551234567") == []
    assert found("the order 415-555-0132") == []
    assert found("for my order, phone 415-555-0132") == [("phone", "415-555-0132")]
    assert found("the order is late! 415-555-0132") == [("phone", "415-555-0132")]
    assert found("Kundennummer 0151 23456789") == []
    assert found("Telefonnummer 0151 23456789") == [("phone", "0151 23456789")]


def test_several_in_a_row_are_told_apart():
    assert found("4111 1111 1111 1111 030 1234567") == [
        ("card", "4111 1111 1111 1111"),
        ("phone", "030 1234567"),
    ]
    assert found("12.05.2024 030 1234567") == [("phone", "030 1234567")]
    assert found("a@example.com,b@example.com") == [
        ("e-mail", "a@example.com"),
        ("e-mail", "b@example.com"),
    ]
    assert found("030 1234567 / 0151 23456789") == [
        ("phone", "030 1234567"),
        ("phone", "0151 23456789"),
    ]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgres://bob:s3cretpw@db.example.com/x", "s3cretpw"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI/K7MDENG"),
        ("password = 'hunter2hunter2'", "hunter2hunter2"),
        ('"api_key": "0123456789abcdef0123"', "0123456789abcdef0123"),
        ("my password is hunter2.", "hunter2"),
        ("passwd=Adm1nAdm1n", "Adm1nAdm1n"),
        ("AccountKey=Eby8vdM02xNOcqFlqUwJ==", "Eby8vdM02xNOcqFlqUwJ=="),
        ("Passwort: Tr0ub4dor&3", "Tr0ub4dor&3"),
        ("密码:abc123def", "abc123def"),
    ],
)
def test_secrets_that_are_named(text, secret):
    assert found(text) == [("key", secret)]


def test_a_key_that_was_cut_off_goes_as_far_as_it_does():
    text = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqh\nkiG9w0BAQEFAASC"
    assert found(f"see {text}") == [("key", text)]


def test_overlaps_are_one_span():
    assert found("https://ann:pw12345678@example.com") == [("key", "pw12345678")]
    assert found("sk-abc123ann@example.com") == [("e-mail", "sk-abc123ann@example.com")]


def test_replacing():
    text = "Mail ann@example.com or call 030 1234567."
    redacted = spans.replace(text, spans.find(text))
    assert redacted == "Mail [e-mail] or call [phone]."
    assert spans.find(redacted) == [] and spans.replace(text, []) == text


def test_entropy():
    assert entropy("aaaa") == 0 and entropy("abcd") == 2
    random_ = "Zx8Kq2LmVt5RwY7pBn3Dc9Fh"
    assert [*random_looking(f"= {random_}=", 4.2)] == [(2, 27, "key")]
    for text in (
        "d670460b4b4aece5915caf5c68d12f560a9fe3e4",
        "ThisIsALongCamelCaseNameOfAClass",
        "Aa1" * 10,
        "Short1Aa",
        random_ * 10,
    ):
        assert not [*random_looking(text, 4.2)]
    given = talk(f"the value is {random_}")
    assert Personal()(given) is given
    changed = Personal(entropy=4.2)(given)
    assert changed.conversation.messages[0].content == "the value is [key]"
    assert Personal(entropy=4.2, kinds=("phone",))(given) is given
    both = Personal(entropy=3)(talk(f"password = '{random_}'"))
    assert both.counts == {"key": 1}


ATTACKS = {
    "digits": "1",
    "dots": "1.",
    "spaces": "1 ",
    "separators": "1 - ",
    "brackets": "1(",
    "fours": "4111 ",
    "almost a card": "4111 1111 1111 1112 ",
    "signs": "@",
    "addresses": "a@",
    "domains": "a.",
    "a domain": "a@a.",
    "dashes": "a-",
    "e-mails": "a@b.co ",
    "colons": ":",
    "hextets": "a:",
    "hexadecimal": "f",
    "JWT": "eyJ",
    "JWT parts": "eyJaaaaaaaa.",
    "blocks": "-----BEGIN PRIVATE KEY-----",
    "sk": "sk-",
    "names": "password",
    "assignments": "key=",
    "passwords": "password: ",
    "quotes": "key='",
    "servers": "://a:",
    "accounts": "DE89 3704 ",
    "plus": "+",
    "words": "phone ",
    "base64": "aB3",
    "bearer": "bearer ",
    "letters": "é",
}


@pytest.mark.parametrize("case", ATTACKS)
def test_time_does_not_grow_with_the_square_of_a_text(case):
    """Of 60,000 characters the square would be many minutes: none of these would end."""
    text = ATTACKS[case] * (60_000 // len(ATTACKS[case]))
    for given in (text, "a@" + text, "key='" + text):
        Personal(entropy=4.2).spans(given)


def test_any_text_is_redacted_once_and_for_all():
    """Spans are in order and apart, whatever the text; what is left has nothing in it."""
    random_ = random.Random(1)
    pieces = (
        [some for given in FOUND.values() for some in given] + HARMLESS + list(" .,:@+-(/\né好")
    )
    for _ in range(300):
        text = "".join(random_.choices(pieces, k=random_.randrange(12)))
        given = spans.find(text)
        assert all(a.stop <= b.start for a, b in itertools.pairwise(given))
        assert all(0 <= s.start < s.stop <= len(text) for s in given)
        again = spans.replace(text, given)
        for _ in range(3):  # what stood next to a span may look like a number now
            again = spans.replace(again, spans.find(again))
        assert not spans.find(again)


# --------------------------------------------------------------------------- whole conversations


def test_all_roles_are_redacted_alike_and_counted():
    given = talk("I am ann@example.com", "Hello ann@example.com, 030 1234567?", "no")
    given = dataclasses.replace(
        given, messages=(Message("system", "IP 203.0.113.7"), *given.messages)
    )
    changed = Personal()(given)
    assert isinstance(changed, Changed)
    assert changed.counts == {"ip": 1, "e-mail": 2, "phone": 1}
    assert [m.content for m in changed.conversation.messages] == [
        "IP [ip]",
        "I am [e-mail]",
        "Hello [e-mail], [phone]?",
        "no",
    ]
    assert changed.conversation.source == given.source
    assert [m.role for m in changed.conversation.messages] == [m.role for m in given.messages]


def test_what_has_nothing_is_the_same_object():
    given = talk("Hi", "Yo", "Bye", user="u", note="x")
    assert Personal()(given) is given
    assert Personal(kinds=("phone",))(talk("ann@example.com")).messages[0].content


def test_dropping_says_what_but_not_which():
    outcome = Personal("drop")(talk("ann@example.com 030 1234567", "bob@example.com"))
    assert isinstance(outcome, Dropped)
    assert outcome.reason == "personal data (e-mail, phone)"
    assert outcome.detail == "2 x e-mail, 1 x phone"
    assert "ann" not in repr(outcome)
    assert not reason(Personal("drop")(talk("Hi")))


def sampled(role, content, ids=(1, 2)):
    return Message(role, content, ids, (-1.0,) * len(ids), sampling_logps=(-2.0,) * len(ids))


def test_sampled_ids_of_a_changed_message_are_left_out():
    messages = (
        Message("user", "Hi"),
        sampled("assistant", "Yo"),
        Message("user", "I am ann@example.com"),
        sampled("assistant", "Fine"),
        Message("user", "So?"),
        sampled("assistant", "ann@example.com, hello"),
        Message("user", "Bye"),
    )
    changed = Personal()(dataclasses.replace(talk("x"), messages=messages))
    after = changed.conversation.messages
    assert after[1] is messages[1], "before the change all is as it was"
    assert after[3].token_ids == (1, 2), "its text is the same"
    assert after[3].logps is None and after[3].sampling_logps is None, "its history is not"
    assert after[5].content == "[e-mail], hello"
    assert after[5].token_ids is None and after[5].logps is None
    assert after[5].sampling_logps is None
    assert changed.counts == {"e-mail": 2, IDS_LEFT_OUT: 1, LOGPS_LEFT_OUT: 1}


def test_what_comes_with_messages_is_redacted_too():
    call = {"function": {"name": "send", "arguments": {"to": ["ann@example.com"], "n": 1}}}
    fields = {"tool_calls": [call], "reasoning_content": "her number is 030 1234567"}
    message = dataclasses.replace(sampled("assistant", "Done"), fields=fields, weight=0.5)
    pair = Preference(1, Message("assistant", "ok"), sampled("assistant", "b@example.com"))
    given = dataclasses.replace(
        talk("Hi", ip="203.0.113.7", turn=3, timestamp="2023-04-09 00:00:00"),
        messages=(Message("user", "Hi"), message),
        preferences=(pair,),
        tools=({"name": "send", "description": "as bob@example.com"},),
        user="ann@example.com",
        id="ann@example.com/7",
    )
    changed = Personal()(given)
    after = changed.conversation
    text = json.dumps([after.messages[1].fields, after.tools, after.meta])
    assert "example.com" not in text and "1234567" not in text and "203" not in text
    assert after.messages[1].fields["tool_calls"][0]["function"]["arguments"]["n"] == 1
    assert after.messages[1].weight == 0.5 and after.messages[1].token_ids is None
    assert after.meta == {"ip": "[ip]", "turn": 3, "timestamp": "2023-04-09 00:00:00"}
    (redacted,) = after.preferences
    assert redacted.rejected.content == "[e-mail]" and redacted.rejected.token_ids is None
    assert redacted.chosen is pair.chosen
    assert after.user.startswith("person-") and after.id.startswith("person-")
    assert after.user != after.id
    assert Personal()(dataclasses.replace(given, messages=())).conversation.user == after.user
    assert changed.counts["e-mail"] == 5 and changed.counts["ip"] == changed.counts["phone"] == 1


def test_a_pair_after_a_change_has_another_history():
    chosen = sampled("assistant", "ok")
    pairs = (Preference(0, chosen, chosen), Preference(1, chosen, chosen))
    given = dataclasses.replace(talk("a@example.com", "b", "c"), preferences=pairs)
    first, second = Personal()(given).conversation.preferences
    assert first == pairs[0] and second.chosen.logps is None and second.chosen.token_ids == (1, 2)


# ------------------------------------------------------------------------------------ how well


def share(cell):
    return float(cell.split()[0])


def test_planted_personal_data_is_found():
    """docs/filters.md has the figures for more of it."""
    recall, precision = personal(finders()["personal"], seed=11, sentences=40)
    for kind, *recalls in recall:
        assert min(map(share, recalls)) >= 90, (kind, recalls)
        assert share(recalls[-1]) >= 97, (kind, recalls)
    for kind, *precisions in precision:
        assert min(map(share, precisions)) >= 90, (kind, precisions)
        assert share(precisions[-1]) >= 97, (kind, precisions)


def test_planted_languages_are_told():
    *_, (_, ten, twenty, forty, eighty, _) = languages()
    assert share(ten) >= 80 and share(twenty) >= 95
    assert share(forty) >= 98 and share(eighty) >= 99


def test_what_is_planted_is_valid_and_the_same_each_time():
    one, again = (planted.plant(5, 3, "fr", "iban") for _ in range(2))
    assert one == again and one.text[one.start : one.stop].startswith(("FR", "BE"))
    assert planted.plant(5, 4, "fr", "iban") != one
    assert planted.plant(5, 3, "de", "").kind == ""
