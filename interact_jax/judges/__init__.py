"""Which of two replies is better, and how often: judges, and the comparison of models by them.

judge                      the interface; model_judge, local, pocket_judge and people behind it
sides, replies, contest    who replies, what was replied, candidates against a baseline
pairwise, statistics       outcomes of votes in both orders; shares with their uncertainty
store                      results on disk as they come
"""

from interact_jax.judges.judge import Comparison, Judge, Verdict
from interact_jax.judges.model_judge import ModelJudge, parse_answer
from interact_jax.judges.pairwise import Judgement, Pair, figures, judge_pairs
from interact_jax.judges.pocket_judge import PocketJudge, parse_preference
