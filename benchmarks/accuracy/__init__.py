"""How robust methods make a network, and whether what they learn on the way is learnt."""
