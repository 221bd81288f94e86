"""Client APIs as data: routes, text parts of a body, error objects. Pure functions."""
