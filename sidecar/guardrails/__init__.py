"""What the content contains: policies, rules, one local pass, remote checks."""
