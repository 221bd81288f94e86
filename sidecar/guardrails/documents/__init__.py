"""The shape of a policy document, field by field; refuses every field it does not know."""
