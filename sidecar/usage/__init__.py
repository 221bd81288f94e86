"""Usage of requests, from the access log or their answers: tokens, estimates, and prices."""
