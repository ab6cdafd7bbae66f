"""Public benchmarks of instruction following: their files, and the figures that need no judge.

    benchmarks      AlpacaEval, Arena-Hard, MT-Bench, IFEval: questions in, answers out
    answering       asks a model, resumes where it stopped
    win_rates       plain and length-controlled win rates of AlpacaEval's annotations
    ifeval          the checks of IFEval, without a network

(`interact_jax.evaluation` is what a run measures of itself.)
"""
