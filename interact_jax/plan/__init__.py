"""Whether a run fits on a TPU slice, and how long a step takes, determined without the hardware.

    work = synthetic_work(cfg, shape("qwen3-8b"), "qwen3-8b")
    plan = make_plan(cfg, work, "v5e:4x4")
    change, better = first_that_fits(cfg, work, "v5e:2x2")     if it does not fit

libtpu compiles for any slice on a machine without TPUs. It compiles the trainer's own step, so the
bytes are the compiler's figures, not an estimate. The times are an estimate, from a roofline model.

    work       what is planned: a model, and trees to fill its rows with
    compiler   libtpu: a slice, a program compiled for it, the program's bytes
    step       the trainer's step on a slice: the plan, its bytes and its times
    advice     for a run that does not fit: the first change that makes it fit
    report     a plan as text and as JSON
"""

from interact_jax.plan.advice import Change, first_that_fits, format_change
from interact_jax.plan.compiler import HERE, SLICES, DoesNotFit, Program
from interact_jax.plan.report import lines, to_json
from interact_jax.plan.step import ASSUMPTIONS, Plan, make_plan, mesh_on
from interact_jax.plan.work import Work, synthetic_work, work_of
