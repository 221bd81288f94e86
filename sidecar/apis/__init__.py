"""The provider APIs: routes, texts of requests and answers, framing, usage, error bodies."""
