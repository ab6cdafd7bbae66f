"""Where chat templates run: Jinja in which work is counted, so that none hangs or fills the memory.

    template = Template("{% for m in messages %}{{ m.content }}{% endfor %}")
    template.render({"messages": [...]}, size=1000)

What a template may use is a list of filters, methods, tests and functions whose work is known
(`allowed.py`). Each costs units in proportion to what Python does for it: a pass through the body
of a loop or a macro as many as that has nodes (`counting.py` writes this into the code that Jinja
makes), an operation as many as its operands are long (`environment.py`). A template that runs out
of units, or would make a value that is too large, ends with TooMuch, whatever the messages are.
What is rendered is rendered as transformers renders it.

`trial.py` compiles and renders in a process of its own, which can be ended. Nothing here imports
more than Jinja, so that this process starts at once.
"""

from interact_jax.data.sandbox.trial import SECONDS, Template, main, told, trial

__all__ = ["SECONDS", "Template", "main", "told", "trial"]
