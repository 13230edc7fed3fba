# ruff: noqa: E501
import jax
import jax.numpy as jnp
import pytest

from flexmdm_jax.dryrun.hlo import (
  Collective,
  Operation,
  collectives,
  operations,
)

# A loop of 3, or of 0, 2, .. 8, with a gather in it, in a fusion; a conditional; groups of both
# spellings; an asynchronous reduction.
PROGRAM = """
HloModule jit_update, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused (p: bf16[2,4]) -> bf16[8,4] {
  %p = bf16[2,4]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather = bf16[8,4]{1,0:T(8,128)(2,1)} all-gather(%p), replica_groups=[2,4]<=[8], dimensions={0}
}

%body (state: (s32[], bf16[2,4])) -> (s32[], bf16[2,4]) {
  %state = (s32[], bf16[2,4]{1,0}) parameter(0)
  %w = bf16[8,4]{1,0} fusion(%p), kind=kCustom, calls=%fused
  %i = s32[] get-tuple-element(%state), index=0
  %two = s32[] constant(2)
  %j = s32[]{:T(128)} add(%i, %two)
  ROOT %next = (s32[], bf16[2,4]{1,0}) tuple(%j, %w)
}

%condition (state: (s32[], bf16[2,4])) -> pred[] {
  %state = (s32[], bf16[2,4]{1,0}) parameter(0)
  %i = u32[] get-tuple-element(%state), index=0
  %bound = u32[]{:T(128)} constant(9)
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

%some (p: f32[8]) -> f32[8] {
  ROOT %swap = f32[8]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
}

%none (p: f32[8]) -> f32[8] {
  ROOT %p = f32[8]{0} parameter(0)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %loop = (s32[], bf16[2,4]{1,0}) while(%start), condition=%condition, body=%bodyTRIPS
  %either = f32[8]{0} conditional(%p, %x, %x), branch_computations={%none, %some}
  %scattered = f32[2]{0} reduce-scatter(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %begin = f32[8]{0} all-reduce-start(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %done = f32[8]{0} all-reduce-done(%begin)
}
"""


@pytest.mark.parametrize(
  ("trips", "times"),
  [(', backend_config={"known_trip_count":{"n":"3"}}', 3), ("", 5)],
)
def test_collectives_by_hand(trips, times):
  found = collectives(PROGRAM.replace("TRIPS", trips), num_devices=8)
  assert set(found) == {
    # 64 bytes gathered over 4; 32 summed over 2; 32 scattered over 4.
    Collective("all-gather", 4, times, times * 64 * 3 / 4),
    Collective("all-reduce", 2, 1, 2 * 32 / 2),
    Collective("reduce-scatter", 4, 1, 32 * 3 / 4),
    Collective("collective-permute", 8, 1, 32),
  }


@pytest.mark.parametrize(
  ("groups", "size"),
  [
    ("{{0,1,2,3},{4,5,6,7}}", 4),
    ("[4,2]<=[8]", 2),
    ("mesh['data'=2,'fsdp'=4,'tensor'=1] {'fsdp'}", 4),
    ("mesh['data'=2,'fsdp'=4] {'data','fsdp'}", 8),
    ("mesh['axis_0'=8] {'axis_0':(1)2}", 2),
  ],
)
def test_groups_in_every_spelling(groups, size):
  text = f"""
ENTRY %main (x: f32[8]) -> f32[8] {{
  ROOT %sum = f32[8]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add
}}
"""
  (found,) = collectives(text, 8)
  assert found.group == size


def test_asynchronous_gather_counts_its_result():
  text = """
ENTRY %main (x: f32[8]) -> f32[16] {
  %begin = (f32[8]{0}, f32[16]{0}) all-gather-start(%x), replica_groups=[1,2]<=[2], dimensions={0}
  ROOT %done = f32[16]{0} all-gather-done(%begin)
}
"""
  assert collectives(text, 2) == [Collective("all-gather", 2, 1, 32)]


# A loop of 3 with an update in place, a product in a fusion and a fused
# transpose; a library's product, a kernel, a copy to nearer memory, a conversion.
OPERATIONS = """
%moves (p: bf16[4,8]) -> bf16[8,4] {
  %p.1 = bf16[4,8]{1,0} parameter(0)
  %cast = f32[4,8]{1,0} convert(%p.1)
  ROOT %turned = bf16[8,4]{1,0} transpose(%cast), dimensions={1,0}
}

%product (p: bf16[4,8], q: bf16[8,4]) -> f32[4,4] {
  %p.2 = bf16[4,8]{1,0} parameter(0)
  %q.2 = bf16[8,4]{1,0} parameter(1)
  ROOT %dot = f32[4,4]{1,0} dot(%p.2, %q.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%write (whole: f32[100,4], part: f32[4], i: s32[]) -> f32[100,4] {
  %whole = f32[100,4]{1,0} parameter(0)
  %part = f32[4]{0} parameter(1)
  %i = s32[] parameter(2)
  %row = f32[1,4]{1,0} bitcast(%part)
  %zero = s32[] constant(0)
  ROOT %written = f32[100,4]{1,0} dynamic-update-slice(%whole, %row, %i, %zero)
}

%body (state: (s32[], f32[100,4])) -> (s32[], f32[100,4]) {
  %state = (s32[], f32[100,4]{1,0}) parameter(0)
  %array = f32[100,4]{1,0} get-tuple-element(%state), index=1
  %d = f32[4,4]{1,0} fusion(%a, %b), kind=kOutput, calls=%product
  %begin = ((f32[100,4]{1,0}, f32[4]{0}), f32[100,4]{1,0}, u32[]) fusion-start(%array, %x), kind=kLoop, calls=%write
  %end = f32[100,4]{1,0} fusion-done(%begin)
  ROOT %next = (s32[], f32[100,4]{1,0}) tuple(%j, %end)
}

%condition (state: (s32[], f32[100,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (x: bf16[4,8]) -> bf16[8,4] {
  %x = bf16[4,8]{1,0} parameter(0)
  %loop = (s32[], f32[100,4]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %gemm = (f32[4,4]{1,0}, s8[64]{0}) custom-call(%x, %y), custom_call_target="__cublas$lt$matmul"
  %ours = bf16[4,8]{1,0} custom-call(%x), custom_call_target="tpu_custom_call"
  %nearer = (bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, bf16[4,8]{1,0}, u32[]) copy-start(%x)
  %there = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} copy-done(%nearer)
  %same = bf16[4,8]{1,0} copy(%x)
  %rounded = f32[4,8]{1,0} convert(%x)
  ROOT %moved = bf16[8,4]{1,0} fusion(%x), kind=kLoop, calls=%moves
}
"""


def test_operations_by_hand():
  assert set(operations(OPERATIONS)) == {
    # Without the library's workspace.
    Operation("matmul", 4, 4 * 64),
    Operation("kernel", 1, 64),
    # Four numbers of 400 in each turn, and one copy.
    Operation("copy", 3 + 1, 3 * 16 + 64),
    Operation("prefetch", 1, 64),
    Operation("convert", 1, 128),
    Operation("transpose", 1, 64),
  }


def test_operations_of_a_compiled_program():
  def step(x):
    return jax.lax.fori_loop(0, 5, lambda _, x: jnp.sin(x @ x), x)

  x = jax.ShapeDtypeStruct((16, 16), jnp.float32)
  found = operations(jax.jit(step).lower(x).compile().as_text())
  assert {one.kind: one.count for one in found}["matmul"] == 5
