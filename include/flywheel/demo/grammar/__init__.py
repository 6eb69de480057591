"""The headline grammar: word lists and event templates in YAML, compiled once into closures.

A template is text with slots and choices: `{slot}` draws a word, `{slot^}` capitalises it, and
`[a|b|]` picks one of several texts (choices nest). Drawing costs about 20 microseconds a headline,
so a million take well under two minutes on one core.
"""

from flywheel.demo.grammar.compiler import Scene
from flywheel.demo.grammar.events import Event, Kind, draw_event, kinds, retell_event

__all__ = ["Event", "Kind", "Scene", "draw_event", "kinds", "retell_event"]
