"""One model on many processes: who holds what, what they tell each other, and how much of it."""
