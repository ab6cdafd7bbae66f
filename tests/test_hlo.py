"""Collectives read from the text of a compiled program."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from interact_jax import hlo, sharding

LAYERS, D = 5, 64


def compiled_text(function, *shapes_and_specs):
    mesh = sharding.make_mesh(fsdp=8)
    args = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
        for shape, spec in shapes_and_specs
    ]
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*args).compile().as_text()


def test_a_collective_in_a_loop_counts_as_often_as_it_runs():
    def layers(x, w):
        def one(x, w):
            whole = jax.lax.with_sharding_constraint(w, PartitionSpec(None, None))
            return jnp.tanh(x @ whole), None

        return jax.lax.scan(one, x, w)[0]

    text = compiled_text(layers, ((8, D), ("fsdp",)), ((LAYERS, D, D), (None, "fsdp")))
    gathers = hlo.collectives(text, 8)["all-gather"]
    assert gathers.count == LAYERS
    assert gathers.bytes == LAYERS * D * D * 4 * 7 // 8


def test_a_sum_over_devices_is_sent_twice():
    text = compiled_text(lambda x: x.sum(axis=0), ((8, D), ("fsdp",)))
    assert hlo.collectives(text, 8) == {"all-reduce": hlo.Traffic(1, 2 * D * 4 * 7 // 8)}


# What the TPU compiler writes: a loop whose counter goes up by two, an asynchronous gather in two
# steps of one channel, groups as a mesh.
TPU = """
%cond (p.1: (s32[], bf16[8,4])) -> pred[] {
  %p.1 = (s32[], bf16[8,4]{1,0:T(8,128)}) parameter(0)
  %bound = s32[]{:T(128)} constant(8)
  %i = s32[] get-tuple-element(%p.1), index=0
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

%start (a: bf16[2,4]) -> bf16[8,4] {
  %a = bf16[2,4] parameter(0)
  ROOT %g.1 = bf16[8,4]{1,0} all-gather(%a), channel_id=3, replica_groups=mesh['x'=2,'y'=4] {'y'}
}

%done (b: bf16[2,4]) -> bf16[8,4] {
  %b = bf16[2,4] parameter(0)
  ROOT %g.2 = bf16[8,4]{1,0} all-gather(%b), channel_id=3, replica_groups=mesh['x'=2,'y'=4] {'y'}
}

%body (p.2: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %p.2 = (s32[], bf16[8,4]) parameter(0)
  %two = s32[] constant(2)
  %j = s32[] get-tuple-element(%p.2), index=0
  %x = bf16[8,4] get-tuple-element(%p.2), index=1
  %f.1 = bf16[8,4] fusion(%x), kind=kCustom, calls=%start
  %f.2 = bf16[8,4] fusion(%f.1), kind=kCustom, calls=%done
  %next = s32[] add(%j, %two)
  ROOT %t = (s32[], /*index=1*/bf16[8,4]) tuple(%next, %f.2)
}

ENTRY %main (x.0: bf16[8,4]) -> bf16[8,4] {
  %x.0 = bf16[8,4] parameter(0)
  %zero = s32[] constant(0)
  %start.0 = (s32[], bf16[8,4]) tuple(%zero, %x.0)
  %loop = (s32[], bf16[8,4]) while(%start.0), condition=%cond, body=%body
  ROOT %r = bf16[8,4] get-tuple-element(%loop), index=1
}
"""


def test_pieces_of_an_asynchronous_collective_count_once():
    assert hlo.collectives(TPU, 8) == {"all-gather": hlo.Traffic(4, 4 * 64 * 3 // 4)}


NEWER = """HloModule m

%body.1 (p.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.1 = (s32[], f32[8]) parameter(0)
  %one.1 = s32[] constant(1)
  %next.1 = s32[] add(%p.1#0, %one.1)
  %sum.1 = f32[8] all-reduce(%p.1#1), replica_groups={{0,1}}, to_apply=%add.1
  ROOT %tuple.1 = (s32[], f32[8]) tuple(%next.1, %sum.1)
}

%condition.1 (p.2: (s32[], f32[8])) -> pred[] {
  %p.2 = (s32[], f32[8]) parameter(0)
  %bound.1 = s32[] constant(12)
  ROOT %less.1 = pred[] compare(%p.2#0, %bound.1), direction=LT
}

ENTRY %main (x: f32[8]) -> (s32[], f32[8]) {
  %x = f32[8] parameter(0)
  %zero.1 = s32[] constant(0)
  %start.1 = (s32[], f32[8]) tuple(%zero.1, %x)
  ROOT %loop.1 = (s32[], f32[8]) while(%start.1), condition=%condition.1, body=%body.1
}
"""


@pytest.mark.parametrize(
    ("notation", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}", [[3, 2], [1, 0]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ],
)
def test_what_goes_between_slices(notation, groups):
    """Of devices 0 and 1, and 2 and 3."""
    kind = "collective-permute" if "pairs" in notation else "all-gather"
    text = f"""
ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8] parameter(0)
  ROOT %y = f32[8] {kind}(%x), channel_id=1, {notation}, dimensions={{0}}
}}
"""
    size = len(groups[0])
    sent = 32 if kind == "collective-permute" else 32 * (size - 1) // size
    everything = {kind: hlo.Traffic(1, sent)}
    assert hlo.collectives(text, 4) == everything
    crosses = any({0, 1} & set(group) and {2, 3} & set(group) for group in groups)
    assert hlo.across_slices(text, 4, 2) == (everything if crosses else {})
    (found,) = hlo.each(text, {"a": 2, "b": 2})
    assert found.axes == (("a", "b") if size == 4 else ("a",) if crosses else ("b",))
    assert (found.kind, found.dtype, found.shape, found.bytes) == (kind, "f32", (8,), sent)
    assert hlo.by_axes([found]) == {"+".join(found.axes): everything}


# What the TPU compiler writes for two slices, cut short: each device's part goes by its host.
BY_HOSTS = """
ENTRY %main (x: f32[32,8,128]) -> f32[32,8,128] {
  %x = f32[32,8,128] parameter(0)
  %start = token[] after-all()
  %s = (f32[32,8,128]{2,1,0}, u32[], token[]) send(%x, %start), channel_id=8, ATTRIBUTES
  %r = (f32[32,8,128]{2,1,0}, u32[], token[]) recv(%start), channel_id=7, ATTRIBUTES
  %g = f32[8] all-gather(%x), channel_id=1, replica_groups={{0,1},{2,3}}, dimensions={0}
  ROOT %y = f32[32,8,128] get-tuple-element(%r), index=0
}
"""


@pytest.mark.parametrize("kind, slices, parts", [("ALL_REDUCE", 4, 1.5), ("ALL_GATHER", 4, 3)])
def test_what_hosts_of_tpus_send_between_slices(kind, slices, parts):
    """Parts of the size of a device's own that it sends."""
    attributes = (
        'is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",'
        f'_xla_megascale_transfer_type="{kind}"}}'
    )
    text = BY_HOSTS.replace("ATTRIBUTES", attributes)
    sent = hlo.Traffic(1, int(32 * 8 * 128 * 4 * parts))
    assert hlo.across_slices(text, 16, slices) == {kind.lower().replace("_", "-"): sent}
    assert hlo.collectives(text, 16).keys() == {"all-gather"}
    axes = hlo.by_axes(hlo.each(text, {"slice": slices, "fsdp": 8 // slices, "tensor": 2}))
    assert axes.keys() == {"slice", "tensor"}


def test_elements_as_newer_compilers_write_them():
    assert hlo.collectives(NEWER, 2) == {"all-reduce": hlo.Traffic(12, 12 * 2 * 8 * 4 // 2)}
