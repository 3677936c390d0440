"""`make soak`: half an hour of everything that can go wrong, at random, from a seed that plays it again."""
