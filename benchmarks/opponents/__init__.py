"""The other side: the field's research steps, other libraries' training loops, and their attacks."""
