"""Which of two replies is better, and how often: judges, and the comparison of models by them.

judge                      the interface; behind it model_judge (local, remote), pocket_judge,
                           people
sides, replies, contest    who replies, what was replied, candidates against a baseline
pairwise, statistics       outcomes of votes in both orders; shares with their uncertainty
tasks                      what is measured of a model by itself
store, notes, output       results on disk as they come, what is unusual, what is written
"""

from interact_jax.judges.judge import Comparison, Judge, Verdict
from interact_jax.judges.model_judge import ModelJudge, parse_answer
from interact_jax.judges.pairwise import Judgement, Pair, figures, judge_pairs
from interact_jax.judges.pocket_judge import PocketJudge, parse_preference
