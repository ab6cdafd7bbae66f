"""Chatting with a model, and teaching it by what one says next.

transcript    the conversation, and the file that it is kept in
window        what of it is sent to the model
stream        what can be shown of a reply that grows
learner       steps on the conversation, taken back again; its signal
session       all of these: what can be done, without a terminal
commands      what is typed: messages and commands
screen        output at any width, with and without colours
terminal      the dialogue with a person, or with a script
"""

from interact_jax.chatting.learner import Learner, check_settings
from interact_jax.chatting.session import Reply, Session
from interact_jax.chatting.terminal import Terminal
from interact_jax.chatting.transcript import ChatLog, Transcript
