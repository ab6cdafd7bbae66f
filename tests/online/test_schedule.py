"""Users and their wishes in words: the grammar, its errors with their place, phases."""

import pytest

from interact_jax.online.schedule import describe, parse_schedule, phase_at, wants_of
from interact_jax.pocket import world
from interact_jax.schema import InputError
from interact_jax.users import load_personas


def wants(users, schedule=""):
    return [[want.name for want in phase.users] for phase in parse_schedule(users, schedule)]


def preference(users):
    return dict(parse_schedule(users)[0].users[0].preference)


def test_styles_are_wanted_or_with_a_minus_unwanted():
    assert preference("emoji,-sentence") == {"sentence": False, "emoji": True}
    assert preference(" - emoji , polite") == {"polite": True, "emoji": False}
    assert preference("no emoji") == {"emoji": False}  # as judges are told


def test_names_say_the_preference_however_it_was_written():
    assert wants("emoji,-sentence") == wants("no sentence, emoji") == [["-sentence,emoji"]]
    assert preference(wants("emoji,-sentence")[0][0]) == preference("emoji,-sentence")


def test_no_persona_is_called_like_a_style():
    assert not set(load_personas()) & set(world.STYLES)


def test_personas_are_found_by_name_and_in_files(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[grumpy]\ntext = "This user is grumpy."\n')
    schedule = parse_schedule(f"poetic | {file}:grumpy", f"9: {file}")
    assert [want.name for want in schedule[0].users] == ["poetic", "mine.toml:grumpy"]
    assert schedule[0].users[0].persona == load_personas()["poetic"]
    assert schedule[0].users[1].persona.text == "This user is grumpy."
    assert schedule[1].users == schedule[0].users[1:]


def test_two_personas_of_one_name_are_refused(tmp_path):
    files = [tmp_path / folder / "mine.toml" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text(f'[grumpy]\ntext = "{file.parent.name}"\n')
    with pytest.raises(InputError, match=r"two personas mine\.toml:grumpy"):
        parse_schedule(f"{files[0]}:grumpy", f"5: {files[1]}:grumpy")
    files[1].write_text('[grumpy]\ntext = "a"\n')
    assert len(wants_of(parse_schedule(f"{files[0]} | {files[1]}"))) == 1


def test_conversations_are_dealt_in_turn():
    (phase,) = parse_schedule("emoji | -emoji | emoji")
    names = [phase.user_of(n).name for n in range(5)]
    assert names == ["emoji", "-emoji", "emoji", "emoji", "-emoji"]


def test_phases_begin_at_their_interaction():
    schedule = parse_schedule("emoji", "250: -emoji,sentence; 500: capitals | polite")
    starts = {n: phase_at(schedule, n).start for n in (0, 1, 249, 250, 251, 499, 500, 10**9)}
    expected = {0: 0, 1: 0, 249: 0, 250: 250, 251: 250, 499: 250, 500: 500, 10**9: 500}
    assert starts == expected
    assert phase_at(schedule, 300).users[0].name == "sentence,-emoji"
    assert list(wants_of(schedule)) == ["emoji", "sentence,-emoji", "capitals", "polite"]
    assert describe(schedule) == [
        "from the start: 1 user, emoji",
        "from interaction 250 on: 1 user, sentence,-emoji",
        "from interaction 500 on: 2 users, capitals | polite",
    ]


def test_without_a_schedule_nothing_changes():
    assert wants("emoji") == wants("emoji", " ") == [["emoji"]]


def test_what_is_wanted_before_may_come_back():
    assert wants("emoji", "1: -emoji; 2: emoji") == [["emoji"], ["-emoji"], ["emoji"]]


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ("", r"online\.users is not set"),
        ("  ", r"online\.users is not set"),
        ("emojii", r"online\.users, character 1: 'emojii': no style.*Did you mean 'emoji'\?"),
        ("poetics", r"character 1: 'poetics'.*Did you mean 'poetic'\?"),
        ("xyz", r"'xyz': no style and no persona\. Styles of the pocket world are capitals, "),
        ("emoji, -sentense", r"character 8: '-sentense': no style\. Did you mean 'sentence'\?"),
        ("emoji,,polite", r"character 7: '': no style"),
        ("emoji,", r"character 7: '': no style"),
        ("emoji,-emoji", r"character 7: '-emoji': emoji is named twice"),
        ("emoji | ", r"character \d+: '': expected a user"),
        ("|emoji", r"character 1: '': expected a user"),
        ("emoji, poetic", r"character 8: 'poetic': no style"),
        ("emoji polite", r"character 1: 'emoji polite': no style"),
        ("absent.toml:x", r"character 1: .*absent\.toml: cannot be read"),
        ("-", r"character 1: '-': no style"),
    ],
)
def test_errors_in_users_have_a_place(users, message):
    with pytest.raises(InputError, match=message):
        parse_schedule(users)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("emoji", r"online\.schedule, character 1: 'emoji': expected NUMBER: USERS"),
        ("5 emoji", r"character 1: '5 emoji': expected NUMBER: USERS"),
        ("five: emoji", r"character 1: 'five: emoji': expected NUMBER"),
        ("-5: emoji", r"character 1: '-5: emoji': expected NUMBER"),
        ("5.5: emoji", r"expected NUMBER"),
        ("0: emoji", r"character 1: '0': expected at least 1; .*online\.users"),
        ("5: emoji; 5: polite", r"character 11: '5': expected more than 5"),
        ("5: emoji; 4: polite", r"character 11: '4': expected more than 5"),
        ("2147483648: emoji", r"'2147483648': expected at most 2147483647"),
        ("5: emoji;", r"character 10: '': expected NUMBER: USERS"),
        ("5: emoji;; 6: polite", r"character 10: '': expected NUMBER"),
        ("5:", r"character 3: '': expected a user"),
        ("5: emoji; 6: polight", r"character 14: 'polight'.*Did you mean 'polite'\?"),
        ("5: emoji | polite,-capital", r"character 19: '-capital'.*Did you mean 'capitals'\?"),
        ("9" * 5_000 + ": emoji", "expected NUMBER"),
    ],
)
def test_errors_in_schedules_have_a_place(schedule, message):
    with pytest.raises(InputError, match=message):
        parse_schedule("emoji", schedule)
