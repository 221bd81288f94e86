"""May this principal do this: credentials, key records, the key cache."""
