"""An installation as files: its documents, the plan of a change, and their storage."""
