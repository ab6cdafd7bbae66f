import pytest

from interact_jax.schema import InputError
from interact_jax.users.persona import SHIPPED, Persona, find_persona, load_personas, read_persona


def own(tmp_path, text):
    file = tmp_path / "mine.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_the_papers_styles_come_with_the_package():
    personas = load_personas()
    assert len(personas) == 31
    styles = {
        f"{length}_{tone}_{knowledge}"
        for length in ("concise", "detailed")
        for tone in ("casual", "professional")
        for knowledge in ("beginner", "expert")
    }
    assert styles | {"poetic", "no_punctuation", "no_emojis"} <= set(personas)
    assert len({persona.text for persona in personas.values()}) == 31
    for name, persona in personas.items():
        assert persona.name == name
        assert persona.text.startswith("This user ") and "\n" not in persona.text


def test_a_persona_is_found_by_name():
    assert find_persona("poetic") == load_personas()["poetic"]


def test_ones_own_are_found_by_file_and_name(tmp_path):
    file = own(tmp_path, '[calm]\ntext = "This user\\nis calm."\n[loud]\ntext = "LOUD"\n')
    assert find_persona(f"{file}:loud") == Persona("loud", "LOUD")
    assert load_personas(file)["calm"].text == "This user is calm."


def test_a_file_with_one_persona_needs_no_name(tmp_path):
    file = own(tmp_path, '[only]\ntext = "x"')
    assert find_persona(str(file)) == Persona("only", "x")
    with pytest.raises(InputError, match="There are a, b"):
        find_persona(str(own(tmp_path, '[a]\ntext = "x"\n[b]\ntext = "y"')))


def test_a_name_that_is_none_is_answered_with_those_there_are():
    with pytest.raises(InputError, match="Did you mean 'poetic'"):
        find_persona("poetical")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no personas in it"),
        ("[a\n", "not TOML in UTF-8"),
        (b"[a]\ntext = '\xff'", "not TOML in UTF-8"),
        ("a = 3", "a=3; expected a table per persona"),
        ("[a]", r"a\.text=None; expected text of 1 to 8,000"),
        ("[a]\ntext = 3", r"a\.text=3; expected text"),
        ("[a]\ntext = '  '", r"a\.text=.*; expected text"),
        (f"[a]\ntext = '{'x' * 8001}'", r"a\.text=.*; expected text"),
        ("[a]\ntext = 'x'\ntxet = 'y'", r"a\.txet: no such key"),
        ("[a]\ntext = 'x'\n[a]\ntext = 'y'", "not TOML"),
        ("['a b']\ntext = 'x'", "'a b': no name for a persona"),
    ],
)
def test_what_is_no_persona_is_named(tmp_path, text, message):
    file = own(tmp_path, text)
    with pytest.raises(InputError, match=message) as error:
        load_personas(file)
    assert str(file) in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        find_persona(f"{tmp_path}/none.toml:a")
    with pytest.raises(InputError, match="cannot be read"):
        load_personas(tmp_path)


def test_the_wheel_will_hold_the_file():
    assert SHIPPED.parent.name == "personas"
    text = (SHIPPED.parents[3] / "setup.py").read_text()
    assert '"interact_jax.users": ["personas/*.toml"]' in text


def test_what_a_reader_wants_is_a_name_a_text_or_that_of_a_file(tmp_path):
    folder = tmp_path / "my own"
    folder.mkdir()
    file = own(folder, '[calm]\ntext = "Be calm."\n[loud]\ntext = "LOUD"\n')
    note = tmp_path / "note"
    note.write_text(" Short,\nplease.\n")
    assert read_persona(" poetic ") == find_persona("poetic")
    assert read_persona(f"{file}:loud") == Persona("loud", "LOUD")
    assert read_persona(f"@{note}") == Persona("", "Short,\nplease.")
    for text in ("", "Short.", "No emojis", "Kürzer!", "poetic please", "简短"):
        assert read_persona(text) == Persona("", text)


def test_a_word_that_is_no_persona_is_not_taken_for_a_text(tmp_path):
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for given, said in (
        ("concise_casual_exprt", "Did you mean 'concise_casual_expert'"),
        ("polite", "in words, has more than one"),
        (f"{tmp_path}/gone.toml:x", "cannot be read"),
        (f"@{tmp_path}/gone", "cannot be read"),
        (f"@{empty}", "0 characters; expected what the reader wants"),
    ):
        with pytest.raises(InputError, match=said):
            read_persona(given)
