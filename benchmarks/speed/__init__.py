"""How fast training steps are: counted, timed, beside other programs' steps, and on a GPU."""
