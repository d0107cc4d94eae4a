"""What LAS chooses among in tests, by which network, and the attack that rewards are measured by."""

from __future__ import annotations

from sparring.attacks import PGD
from sparring.methods import Actions, PolicyNetwork

ACTIONS = Actions(eps=("0.04", "0.08", "0.12"), steps=(1, 2, 3), alpha=("0.03", "0.05"))
SMALL = PolicyNetwork(network="smallconv", width=4)
OTHER = PGD(steps=2, alpha=0.04, start="zero")
