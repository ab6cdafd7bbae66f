"""Token trees: every sequence is in them exactly as it is alone, and shared tokens stand once."""

import dataclasses

import numpy as np
import pytest

from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.data.thinking import NOTES
from interact_jax.data.tree import Size, paths, picture, split, split_units
from tests.trees import example, grow, random_window


def alone(window):
    sequences = []
    for (e,) in window:
        for view in (PLAIN, HINDSIGHT):
            ids = [*e.contexts[view].tolist(), *e.target.y.tolist()]
            sequences.append((e.target.id, view, ids[:-1]))
    return sequences


@pytest.mark.parametrize("history_is", ["same", "think", "strip"])
@pytest.mark.parametrize("sharing", ["tree", "none"])
def test_paths_are_the_sequences_alone(history_is, sharing):
    rng = np.random.default_rng(0)
    for turns in (1, 2, 5):
        window = random_window(rng, turns, history_is=history_is)
        found = [path for tree in grow(window, sharing) for path in paths(tree)]
        assert [(i, kind, ids.tolist()) for i, kind, ids in found] == alone(window)


def test_history_stands_once_where_replies_are_rendered_as_in_history():
    window = random_window(np.random.default_rng(1), 4)
    (tree,) = grow(window)
    assert tree.live == ()
    assert tree.trunk.tolist() == window[-1][0].path(PLAIN).tolist()


def test_students_fork_where_the_template_renders_history_differently():
    window = random_window(np.random.default_rng(1), 4, history_is="think")
    (tree,) = grow(window)
    assert len(tree.live) == 3  # the last turn's reply is the trunk
    for limb, (e,) in zip(tree.live, window, strict=False):
        assert (
            limb.fork == len(e.contexts[PLAIN]) - 2
        )  # in front of the two tokens that history lacks


def test_trees_apart_share_nothing():
    window = random_window(np.random.default_rng(1), 3)
    trees = grow(window, "none")
    assert len(trees) == 3
    assert all((tree.live, tree.frozen[0].fork) == ((), 0) for tree in trees)


def test_without_sharing_equal_sequences_stand_twice():
    one, other = (example(f"c_1{side}", [0, 7, 1], [0, 7, 1], [8, 9, 2]) for side in "+-")
    unit = [dataclasses.replace(e, contexts={PLAIN: e.contexts[PLAIN]}) for e in (one, other)]
    (tree,) = grow([unit], "none")
    (limb,) = tree.live
    assert limb.fork == 0
    assert limb.ids.tolist() == tree.trunk.tolist() == [0, 7, 1, 8, 9]


def test_a_student_may_fork_at_its_last_token():
    first = example("c_1", [0, 7, 1], [0, 7, 4, 1], [8, 9, 2])
    later = example("c_3", [0, 7, 1, 8, 5, 1], [0, 7, 1, 8, 5, 4, 1], [6, 2])
    (tree,) = grow([[first], [later]])
    (limb,) = tree.live
    assert (limb.fork, limb.ids.tolist()) == (4, [9])


def test_an_empty_follow_up_leaves_the_teacher_a_predictor_of_its_own():
    e = example("c_1", [0, 7, 1], [0, 7, 1], [8, 9, 2])
    (tree,) = grow([[e]])
    (limb,) = tree.frozen
    assert (limb.fork, limb.ids.tolist()) == (2, [1, 8, 9])


def test_windows_that_share_little_become_trees_of_their_own():
    first = example("c_1", [0, 7, 7, 7, 1], [0, 7, 7, 7, 9, 1], [8, 2])
    cut = example("c_3", [0, 5, 5, 5, 1], [0, 5, 5, 5, 9, 1], [8, 2])
    assert len(grow([[first], [cut]])) == 2
    assert len(grow([[first], [first]])) == 1


def test_split_repeats_the_trunk_and_keeps_every_path():
    window = random_window(np.random.default_rng(3), 6)
    (tree,) = grow(window)
    size = tree.size
    parts = split(tree, Size(size.T, size.P, size.Q // 2, size.R, size.J))
    assert len(parts) > 1
    found = [path for part in parts for path in paths(part)]
    assert [(i, kind, ids.tolist()) for i, kind, ids in found] == alone(window)
    with pytest.raises(ValueError, match="exceeds"):
        split(tree, Size(size.T, 0, 1, size.R, size.J))


def test_picture_counts_what_sharing_saves():
    window = random_window(np.random.default_rng(1), 3)
    (tree,) = grow(window)
    text = picture(tree, lambda ids: " ".join(map(str, ids)))
    size = tree.size
    apart = sum(len(ids) for _, _, ids in alone(window))
    assert f"{size.T + size.P + size.Q} tokens in place of {apart}" in text
    trunk, *limbs = text.splitlines()[:4]
    assert [line.split()[0] for line in (trunk, *limbs)] == ["trunk"] + ["hindsight"] * 3
    for line, limb in zip(limbs, tree.frozen, strict=True):  # indented by where they fork
        assert line.count("·") == round(20 * limb.fork / len(tree.trunk))
    assert limbs[-1].count("·") > limbs[0].count("·")


def test_a_picture_is_as_wide_as_it_may_be():
    """Long text is cut in its middle, to the width or one column less."""
    window = random_window(np.random.default_rng(1), 3)
    (tree,) = grow(window)
    for width in (60, 61, 79, 80):
        lines = picture(tree, lambda ids: "abcdefgh" * 40, width).splitlines()[:4]
        assert all(" … " in line and width - 1 <= len(line) <= width for line in lines)


def test_a_picture_names_the_replies_whose_prompts_are_rendered_otherwise():
    (first,), *rest = random_window(np.random.default_rng(1), 3)
    reasoning, note = next((key, note) for key, note in NOTES.items() if key)
    target = dataclasses.replace(first.target, reasoning=reasoning)
    (tree,) = grow([[dataclasses.replace(first, target=target)], *rest])
    text = picture(tree, str)
    assert f"{note}: {target.id}\n" in text
    assert not any(other in text for other in NOTES.values() if other != note)


def test_units_alone_are_trees_of_their_own():
    window = random_window(np.random.default_rng(3), 3)
    (tree,) = grow(window)
    parts = split_units(tree)
    assert [[e.target.id for unit in part.units() for e in unit] for part in parts] == [
        [e.target.id] for (e,) in window
    ]
    (unshared,) = grow(window[:1], "none")
    assert split_units(unshared) == [unshared]


def test_a_tree_keeps_four_bytes_a_token_and_no_copy_of_a_context():
    """What it was grown from can be read off it, in the same units."""
    window = random_window(np.random.default_rng(2), 12)
    (tree,) = grow(window)
    seen = set()

    def held(thing):
        if id(thing) in seen:
            return 0
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            base = thing if thing.base is None else thing.base
            return held(base) if base is not thing else thing.nbytes
        if dataclasses.is_dataclass(thing):
            return sum(held(getattr(thing, f.name)) for f in dataclasses.fields(thing))
        if isinstance(thing, tuple | list):
            return sum(map(held, thing))
        return sum(map(held, thing.values())) if isinstance(thing, dict) else 0

    size = tree.size
    assert held(tree) == 4 * (size.T + size.P + size.Q + size.R)
    for unit, grown in zip(tree.units(), window, strict=True):
        for one, other in zip(unit, grown, strict=True):
            assert one.target is other.target
            for view, ids in other.contexts.items():
                assert one.contexts[view].tolist() == ids.tolist()
