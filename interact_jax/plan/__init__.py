"""Does a run fit on a TPU slice, and how long does a step take? Answered without the hardware.

    work = synthetic_work(cfg, shape("qwen3-8b"), "qwen3-8b")
    plan = make_plan(cfg, work, "v5e:4x4")
    change, better = first_that_fits(cfg, work, "v5e:2x2")     where it does not fit

libtpu compiles for any slice on a machine that has none. What is compiled is the trainer's own
step, so the bytes are the compiler's figures, not an estimate. The times are one: a roofline.

    work       what is planned: a model, and trees to fill its rows with
    compiler   libtpu: a slice, a program compiled for it, the program's bytes
    step       the trainer's step on a slice: the plan, its bytes and its times
    advice     where it does not fit: the first change with which it does
    report     a plan for people and for programs
"""

from interact_jax.plan.advice import Change, first_that_fits, told
from interact_jax.plan.compiler import HERE, SLICES, DoesNotFit, Program
from interact_jax.plan.report import lines, to_json
from interact_jax.plan.step import ASSUMPTIONS, Plan, make_plan
from interact_jax.plan.work import Work, synthetic_work, work_of
