"""The rules by what they look at, and all of them in the order of their ids."""
