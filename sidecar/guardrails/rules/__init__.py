"""Detection rules: one table a kind of content, each rule a regular expression and a validator."""
