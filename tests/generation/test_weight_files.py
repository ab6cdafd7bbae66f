import pytest

from interact_jax.generation.weight_files import WeightFiles
from interact_jax.schema import InputError


def write_text(params, folder):
    (folder / "weights").write_text(params)


def names(directory):
    return sorted(place.name for place in directory.iterdir())


def test_a_version_is_there_under_its_label_when_it_is_complete(tmp_path):
    seen = []

    def export(params, folder):
        seen.append(names(tmp_path / "w"))
        write_text(params, folder)

    weights = WeightFiles(tmp_path / "w", export)
    label = weights.write("three", 3)
    assert seen == [[f".{label}.partial"]]
    assert names(tmp_path / "w") == [label]
    assert (weights.path(label) / "weights").read_text() == "three"
    assert weights.path(label).is_absolute()
    assert weights.version_of(label) == 3


def test_an_export_that_fails_leaves_nothing(tmp_path):
    def export(params, folder):
        write_text(params, folder)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        WeightFiles(tmp_path, export).write("three", 3)
    assert names(tmp_path) == []


def test_labels_of_other_processes_mean_nothing(tmp_path):
    mine, other = (WeightFiles(tmp_path, write_text) for _ in range(2))
    label = other.write("x", 3)
    assert mine.version_of(label) is None
    assert mine.version_of("default") is None
    assert mine.write("y", 3) != label


def test_only_the_newest_is_kept_and_what_is_not_ours(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / ".v00000009-0123abcd.partial").mkdir()
    WeightFiles(tmp_path, write_text).write("of a killed process", 9)
    weights = WeightFiles(tmp_path, write_text)
    weights.write("one", 1)
    label = weights.write("two", 2)
    weights.keep_only(label)
    assert names(tmp_path) == sorted(["notes", label])


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file; expected a directory"):
        WeightFiles(tmp_path / "file", write_text)
