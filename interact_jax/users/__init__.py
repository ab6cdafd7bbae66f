"""Who talks to the model: simulated users, scripted or played by another model."""

from interact_jax.users.persona import Persona, find_persona, load_personas
from interact_jax.users.played import PlayedUser
from interact_jax.users.scripted import ScriptedUser
from interact_jax.users.user import Reaction, Talk, User, react
